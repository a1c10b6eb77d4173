"""Reads Nemotron and Minitron: LayerNorm by 1 + scale, squared ReLU without a gate."""

from dataclasses import asdict
from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import (
    Biases,
    read_activation,
    read_attention,
    read_head_dim,
    read_model,
    read_num_layers,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import read_rope
from mell_jax.checkpoints.rope_values import rope_values
from mell_jax.models.config import (
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
)
from mell_jax.models.rope import RopeConfig

DEFAULT_EPS = 1e-5
DEFAULT_SHARE = 0.5


def _parse(fields: Fields) -> ModelConfig:
    size = read_head_dim(fields)
    has_bias = fields.flag("attention_bias", default=False)
    layer = LayerConfig(
        attention=read_attention(
            fields,
            head_dim=size,
            rope=read_rope(fields, head_dim=size, default_share=DEFAULT_SHARE),
            **asdict(Biases.of(qkv=has_bias, output=has_bias)),
        ),
        feed_forward=FeedForwardConfig(
            size=fields.integer("intermediate_size"),
            activation=read_activation(fields, default="relu2"),
            is_gated=False,
            has_bias=fields.flag("mlp_bias", default=False),
        ),
        norm=NormConfig(
            kind="layer",
            eps=fields.number("norm_eps", default=DEFAULT_EPS),
            is_offset=True,
            has_bias=True,
        ),
    )
    layers = (layer,) * read_num_layers(fields)
    return read_model(fields, layers=layers, norm=layer.norm)


def _write(config: ModelConfig) -> dict[str, Any]:
    first = config.layers[0]
    return {
        "norm_eps": config.norm.eps,
        "attention_bias": first.attention.query_bias,
        "mlp_bias": first.feed_forward.has_bias,
        **rope_values(
            first.attention.rope or RopeConfig(),
            head_dim=config.head_dim,
            context_tokens=config.max_position_embeddings,
            default_share=DEFAULT_SHARE,
        ),
    }


NEMOTRON = Family(
    architecture="NemotronForCausalLM",
    model_type="nemotron",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
)

"""Reads StarCoder2: LayerNorm, no gate, biases everywhere, a window in all layers."""

from dataclasses import asdict
from typing import Any

from mell_jax.checkpoints.families.family import Family, Sources
from mell_jax.checkpoints.families.names import Names, decoder_sources
from mell_jax.checkpoints.families.reading import (
    Biases,
    read_activation,
    read_attention,
    read_head_dim,
    read_model,
    read_num_layers,
    smallest_window,
    whole_rope,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import read_rope
from mell_jax.models.config import (
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
)

DEFAULT_EPS = 1e-5
DEFAULTS = {"num_key_value_heads": 2}
NAMES = Names(up="mlp.c_fc", down="mlp.c_proj")


def _parse(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(DEFAULTS)
    has_bias = fields.flag("use_bias", default=True)
    has_window = fields.has("sliding_window")
    size = read_head_dim(fields)
    layer = LayerConfig(
        attention=read_attention(
            fields,
            head_dim=size,
            window=fields.integer("sliding_window") if has_window else None,
            rope=whole_rope(fields, read_rope(fields, head_dim=size)),
            **asdict(Biases.of(qkv=has_bias, output=has_bias)),
        ),
        feed_forward=FeedForwardConfig(
            size=fields.integer("intermediate_size"),
            activation=read_activation(fields, default="gelu_pytorch_tanh"),
            is_gated=False,
            has_bias=has_bias,
        ),
        norm=NormConfig(
            kind="layer",
            eps=fields.number("norm_epsilon", default=DEFAULT_EPS),
            has_bias=True,
        ),
    )
    layers = (layer,) * read_num_layers(fields)
    return read_model(fields, layers=layers, norm=layer.norm, tie_embeddings=True)


def _weights(config: ModelConfig) -> Sources:
    return decoder_sources(config, names=NAMES)


def _write(config: ModelConfig) -> dict[str, Any]:
    return {
        "norm_epsilon": config.norm.eps,
        "use_bias": config.layers[0].attention.query_bias,
        "sliding_window": smallest_window(config),
    }


STARCODER2 = Family(
    architecture="Starcoder2ForCausalLM",
    model_type="starcoder2",
    parse=_parse,
    weights=_weights,
    write=_write,
)

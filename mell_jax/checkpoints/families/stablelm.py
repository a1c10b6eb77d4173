"""Reads StableLM 3B and StableLM 2: LayerNorm, and a quarter of each head turns.

StableLM 2 12B has parallel parts, and a norm of its own for each head.
"""

from dataclasses import asdict
from typing import Any

from mell_jax.checkpoints.families.family import Family, Sources
from mell_jax.checkpoints.families.names import Names, decoder_sources
from mell_jax.checkpoints.families.reading import (
    Biases,
    read_activation,
    read_attention,
    read_model,
    read_num_layers,
    read_split_head_dim,
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
DEFAULT_SHARE = 0.25
DEFAULTS = {"num_key_value_heads": 32}
NAMES = Names(
    q_norm="self_attn.q_layernorm", k_norm="self_attn.k_layernorm", head_norms="norms"
)


def _parse(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(DEFAULTS)
    eps = fields.number("layer_norm_eps", default=DEFAULT_EPS)
    has_qk_norm = fields.flag("qk_layernorm", default=False)
    has_bias = fields.flag("use_qkv_bias", default=False)
    size = read_split_head_dim(fields)
    layer = LayerConfig(
        attention=read_attention(
            fields,
            head_dim=size,
            rope=read_rope(fields, head_dim=size, default_share=DEFAULT_SHARE),
            qk_norm=NormConfig(kind="layer", eps=eps) if has_qk_norm else None,
            qk_norm_span="each_head",
            **asdict(Biases.of(qkv=has_bias, output=False)),
        ),
        feed_forward=FeedForwardConfig(
            size=fields.integer("intermediate_size"),
            activation=read_activation(fields),
        ),
        norm=NormConfig(kind="layer", eps=eps, has_bias=True),
        is_parallel=fields.flag("use_parallel_residual", default=False),
    )
    layers = (layer,) * read_num_layers(fields)
    return read_model(fields, layers=layers, norm=layer.norm)


def _weights(config: ModelConfig) -> Sources:
    return decoder_sources(config, names=NAMES)


def _write(config: ModelConfig) -> dict[str, Any]:
    first = config.layers[0]
    return {
        "layer_norm_eps": config.norm.eps,
        "use_qkv_bias": first.attention.query_bias,
        "qk_layernorm": first.attention.qk_norm is not None,
        "use_parallel_residual": first.is_parallel,
        **rope_values(
            first.attention.rope or RopeConfig(),
            head_dim=config.head_dim,
            context_tokens=config.max_position_embeddings,
            default_share=DEFAULT_SHARE,
        ),
    }


STABLELM = Family(
    architecture="StableLmForCausalLM",
    model_type="stablelm",
    parse=_parse,
    weights=_weights,
    write=_write,
)

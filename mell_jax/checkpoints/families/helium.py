"""Reads Helium 1: Llama, but the neighbours in a head turn together.

Its heads side by side are as wide as the model, and their output has no bias.
"""

from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import (
    Biases,
    read_split_head_dim,
    read_uniform,
    whole_rope,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import read_rope
from mell_jax.models.config import ModelConfig

DEFAULTS = {"num_key_value_heads": 20, "head_dim": 128}
DEFAULT_THETA = 100_000.0
DEFAULT_EPS = 1e-8


def _parse(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(DEFAULTS)
    size = read_split_head_dim(fields)
    rope = read_rope(
        fields, head_dim=size, default_theta=DEFAULT_THETA, is_interleaved=True
    )
    has_bias = fields.flag("attention_bias", default=False)
    return read_uniform(
        fields,
        rope=whole_rope(fields, rope),
        norm_eps=DEFAULT_EPS,
        mlp_bias=fields.flag("mlp_bias", default=False),
        biases=Biases.of(qkv=has_bias, output=False),
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    first = config.layers[0]
    return {
        "attention_bias": first.attention.query_bias,
        "mlp_bias": first.feed_forward.has_bias,
    }


HELIUM = Family(
    architecture="HeliumForCausalLM",
    model_type="helium",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
)

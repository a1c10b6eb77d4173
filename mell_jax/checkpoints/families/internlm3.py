"""Reads InternLM3: Llama with one word for biases of queries, keys and values.

transformers 5 writes it as Llama, with Llama's words.
"""

from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import Biases, read_uniform
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig

DEFAULTS = {"num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1e-5}


def _parse(fields: Fields) -> ModelConfig:
    has_bias = fields.flag("bias", default=False)
    return read_uniform(
        fields.with_defaults(DEFAULTS),
        mlp_bias=has_bias,
        biases=Biases.of(qkv=fields.flag("qkv_bias", default=False), output=has_bias),
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    first = config.layers[0]
    return {
        "qkv_bias": first.attention.query_bias,
        "bias": first.feed_forward.has_bias,
    }


INTERNLM3 = Family(
    architecture="InternLM3ForCausalLM",
    model_type="internlm3",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
)

"""Reads Llama 2 and 3.x, and all that is published under its name.

Yi, DeepSeek-LLM, TinyLlama, SmolLM 2, Falcon 3 and many others.
"""

from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import Biases, read_uniform
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig


def _parse(fields: Fields) -> ModelConfig:
    has_bias = fields.flag("attention_bias", default=False)
    return read_uniform(
        fields,
        mlp_bias=fields.flag("mlp_bias", default=False),
        biases=Biases.of(qkv=has_bias, output=has_bias),
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    first = config.layers[0]
    return {
        "attention_bias": first.attention.query_bias,
        "mlp_bias": first.feed_forward.has_bias,
    }


LLAMA = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
    model_types=("internlm3",),  # as transformers 5 writes it
)

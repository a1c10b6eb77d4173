"""Reads Seed-OSS: Llama with biases for queries, keys, values, or for the output."""

from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import Biases, read_uniform
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig

DEFAULTS = {"num_key_value_heads": 8, "head_dim": 128}


def _parse(fields: Fields) -> ModelConfig:
    return read_uniform(
        fields.with_defaults(DEFAULTS),
        mlp_bias=fields.flag("mlp_bias", default=False),
        biases=Biases.of(
            qkv=fields.flag("attention_bias", default=True),
            output=fields.flag("attention_out_bias", default=False),
        ),
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    first = config.layers[0]
    return {
        "attention_bias": first.attention.query_bias,
        "attention_out_bias": first.attention.output_bias,
        "mlp_bias": first.feed_forward.has_bias,
    }


SEED_OSS = Family(
    architecture="SeedOssForCausalLM",
    model_type="seed_oss",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
)

"""Reads Ministral: Mistral with a window in some layers."""

from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import (
    layer_types_of,
    read_num_layers,
    read_uniform,
    read_windows,
    smallest_window,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig

DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096}


def _parse(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(DEFAULTS)
    has_window = fields.has("sliding_window")
    usual = "sliding_attention" if has_window else "full_attention"
    types = (usual,) * read_num_layers(fields)
    return read_uniform(fields, windows=read_windows(fields, default=types))


def _write(config: ModelConfig) -> dict[str, Any]:
    return {
        "sliding_window": smallest_window(config),
        "layer_types": layer_types_of(config),
    }


MINISTRAL = Family(
    architecture="MinistralForCausalLM",
    model_type="ministral",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
)

"""Reads Mistral: Llama with a sliding window in all layers, or in none."""

from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import (
    read_num_layers,
    read_uniform,
    smallest_window,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig

DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096}


def _parse(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(DEFAULTS)
    if not fields.has("sliding_window"):
        return read_uniform(fields)
    window = fields.integer("sliding_window")
    return read_uniform(fields, windows=(window,) * read_num_layers(fields))


def _write(config: ModelConfig) -> dict[str, Any]:
    return {"sliding_window": smallest_window(config)}


MISTRAL = Family(
    architecture="MistralForCausalLM",
    model_type="mistral",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
    also=("Mistral3ForConditionalGeneration",),
)

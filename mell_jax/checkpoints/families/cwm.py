"""Reads Meta's Code World Model: Llama 3 with a window in three of four layers."""

from dataclasses import replace
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
from mell_jax.checkpoints.rope_fields import NEWER, OLDER
from mell_jax.models.config import ModelConfig

DEFAULT_THETA = 1_000_000.0
DEFAULT_WINDOW = 8192
FULL_EVERY = 4
DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "sliding_window": DEFAULT_WINDOW,
}
DEFAULT_ROPE = {
    "rope_type": "llama3",
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""How positions are stretched where the file says nothing of it."""


def _parse(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(DEFAULTS)
    if not (fields.has(OLDER) or fields.has(NEWER)):
        fields = replace(fields, values={**fields.values, OLDER: DEFAULT_ROPE})
    types = tuple(
        "sliding_attention" if layer % FULL_EVERY else "full_attention"
        for layer in range(read_num_layers(fields))
    )
    return read_uniform(
        fields,
        windows=read_windows(fields, default=types),
        mlp_bias=fields.flag("mlp_bias", default=False),
        default_theta=DEFAULT_THETA,
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    return {
        "mlp_bias": config.layers[0].feed_forward.has_bias,
        "sliding_window": smallest_window(config) or DEFAULT_WINDOW,
        "layer_types": layer_types_of(config),
    }


CWM = Family(
    architecture="CwmForCausalLM",
    model_type="cwm",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
    never_null=("bos_token_id",),
)

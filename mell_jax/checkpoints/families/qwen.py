"""Reads Qwen2 (biases on queries, keys, values) and Qwen3 (norms on queries, keys)."""

from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import (
    Biases,
    Windows,
    layer_types_of,
    read_layer_types,
    read_num_layers,
    read_uniform,
    smallest_window,
    windows_by_type,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig

DEFAULT_WINDOW = 4096
DEFAULT_MAX_WINDOW_LAYERS = 28
QWEN3_HEAD_DIM = 128


def _windows(fields: Fields) -> Windows:
    layers = read_num_layers(fields)
    is_windowed = fields.flag("use_sliding_window", default=False)
    window = fields.integer("sliding_window", default=DEFAULT_WINDOW)
    first = fields.integer("max_window_layers", default=DEFAULT_MAX_WINDOW_LAYERS)
    first = first if is_windowed else layers
    allowed = ("full_attention", *(("sliding_attention",) if is_windowed else ()))
    types = read_layer_types(
        fields,
        default=tuple(
            "sliding_attention" if layer >= first else "full_attention"
            for layer in range(layers)
        ),
        allowed=allowed,
    )
    return windows_by_type(types, window if is_windowed else None)


def _window_values(config: ModelConfig) -> dict[str, Any]:
    window = smallest_window(config)
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": config.num_layers,
        "layer_types": layer_types_of(config),
    }


def _parse_qwen2(fields: Fields) -> ModelConfig:
    return read_uniform(
        fields, windows=_windows(fields), biases=Biases.of(qkv=True, output=False)
    )


def _parse_qwen3(fields: Fields) -> ModelConfig:
    has_bias = fields.flag("attention_bias", default=False)
    return read_uniform(
        fields,
        windows=_windows(fields),
        head_dim=QWEN3_HEAD_DIM,
        has_qk_norm=True,
        biases=Biases.of(qkv=has_bias, output=has_bias),
    )


def _write_qwen3(config: ModelConfig) -> dict[str, Any]:
    has_bias = config.layers[0].attention.query_bias
    return {"attention_bias": has_bias, **_window_values(config)}


QWEN2 = Family(
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    parse=_parse_qwen2,
    weights=decoder_sources,
    write=_window_values,
)
QWEN3 = Family(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    parse=_parse_qwen3,
    weights=decoder_sources,
    write=_write_qwen3,
)

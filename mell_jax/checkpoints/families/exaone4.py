"""Reads EXAONE 4: norms after each part, and rotary positions where a window is.

Its large models see everything in every fourth layer, without positions there; the
small ones have no window, and all of their layers are rotated.
"""

from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import (
    layer_types_of,
    read_layer_types,
    read_num_layers,
    read_uniform,
    rotate_only,
    smallest_window,
    types_by_pattern,
    windows_by_type,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig

WINDOW, PATTERN = "sliding_window", "sliding_window_pattern"
DEFAULT_WINDOW = 4096
DEFAULT_PATTERN = 4  # layers, of which the last one sees everything


def _parse(fields: Fields) -> ModelConfig:
    window = _window(fields)
    types = _layer_types(fields, has_window=window is not None)
    config = read_uniform(
        fields,
        windows=windows_by_type(types, window),
        norm_eps=1e-5,
        norm_places="after",
        has_qk_norm=True,
    )
    is_rotated = [window is None or one == "sliding_attention" for one in types]
    return rotate_only(config, is_rotated)


def _window(fields: Fields) -> int | None:
    """Here null, that there is none, differs from a key that is absent."""
    if WINDOW in fields.values and not fields.has(WINDOW):
        return None
    return fields.integer(WINDOW, default=DEFAULT_WINDOW)


def _layer_types(fields: Fields, *, has_window: bool) -> tuple[str, ...]:
    layers, full = read_num_layers(fields), ("full_attention",)
    fields.has(PATTERN)  # some say "LLLG" there, which layer_types says again
    if not has_window:
        return read_layer_types(fields, default=full * layers, allowed=full)
    if fields.has("layer_types"):
        return read_layer_types(fields, default=())
    pattern = fields.integer(PATTERN, default=DEFAULT_PATTERN)
    if pattern < 1:
        fields.fail(PATTERN, f"must be at least 1, found {pattern}")
    return types_by_pattern(fields, full_every=pattern)


def _write(config: ModelConfig) -> dict[str, Any]:
    return {
        WINDOW: smallest_window(config),
        "layer_types": layer_types_of(config),
    }


EXAONE4 = Family(
    architecture="Exaone4ForCausalLM",
    model_type="exaone4",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
)

"""Reads SmolLM3: Llama without rotary positions in every fourth layer."""

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
    rotate_only,
    smallest_window,
    windows_by_type,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig

DEFAULT_KV_HEADS = 4
DEFAULT_THETA = 2_000_000.0
DEFAULT_INTERVAL = 4  # layers
Rotated = tuple[bool, ...]  # layer by layer


def _parse(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults({"num_key_value_heads": DEFAULT_KV_HEADS})
    is_rotated = _rotated(fields)
    has_bias = fields.flag("attention_bias", default=False)
    config = read_uniform(
        fields,
        windows=_windows(fields, is_rotated),
        mlp_bias=fields.flag("mlp_bias", default=False),
        biases=Biases.of(qkv=has_bias, output=has_bias),
        default_theta=DEFAULT_THETA,
        tie_embeddings=True,
    )
    return rotate_only(config, is_rotated)


def _rotated(fields: Fields) -> Rotated:
    """The key's name notwithstanding, 1 says that a layer is rotated."""
    layers = read_num_layers(fields)
    interval = fields.integer("no_rope_layer_interval", default=DEFAULT_INTERVAL)
    if not fields.has("no_rope_layers"):
        if interval < 1:
            fields.fail(
                "no_rope_layer_interval", f"must be at least 1, found {interval}"
            )
        return tuple((layer + 1) % interval != 0 for layer in range(layers))
    found = fields.integers("no_rope_layers")
    if len(found) < layers or not {0, 1}.issuperset(found):
        fields.fail(
            "no_rope_layers",
            f"must say 1 (rotated) or 0 for each of the {layers} layers, found "
            f"{list(found)[:8]}",
        )
    return tuple(map(bool, found[:layers]))


def _windows(fields: Fields, is_rotated: Rotated) -> Windows:
    """Layers that are not rotated have a window where nothing else is told."""
    has_window = fields.has("sliding_window")
    if not (fields.flag("use_sliding_window", default=False) and has_window):
        full = ("full_attention",)
        read_layer_types(fields, default=full, allowed=full)
        return (None,) * len(is_rotated)
    types = read_layer_types(
        fields,
        default=tuple(
            "full_attention" if has_rope else "sliding_attention"
            for has_rope in is_rotated
        ),
    )
    return windows_by_type(types, fields.integer("sliding_window"))


def _write(config: ModelConfig) -> dict[str, Any]:
    first, window = config.layers[0], smallest_window(config)
    return {
        "attention_bias": first.attention.query_bias,
        "mlp_bias": first.feed_forward.has_bias,
        "no_rope_layers": [int(one.rope is not None) for one in config.attentions],
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "layer_types": layer_types_of(config),
    }


SMOLLM3 = Family(
    architecture="SmolLM3ForCausalLM",
    model_type="smollm3",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
)

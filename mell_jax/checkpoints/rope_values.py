"""Writes a rotary embedding in both spellings of `config.json`.

The reverse of `rope_fields.py`: old and new versions of transformers read the result.
What is no property of the file is left out: which channels turn together belongs to
the family, which list a `LongRope` uses to the server.
"""

import math
from collections.abc import Mapping
from typing import Any

from mell_jax.checkpoints.rope_fields import GEMMA3_LAYERS, NEWER, OLDER, LayerRope
from mell_jax.checkpoints.rope_section import ORIGINAL_KEY, SHARE_KEYS
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import (
    DynamicRope,
    LinearRope,
    Llama3Rope,
    LongRope,
    RopeScaling,
    YarnRope,
)

JsonValues = dict[str, Any]


def rope_values(
    rope: RopeConfig,
    *,
    head_dim: int,
    context_tokens: int,
    default_share: float = 1.0,
) -> JsonValues:
    """Returns the keys of a `config.json` whose layers share one rotary embedding.

    `context_tokens` is its `max_position_embeddings`, from which `LongRope` takes what
    it can; `default_share` is what the family turns of a head if no key says.
    """
    scaling = _scaling_values(rope.scaling, context_tokens)
    share = _share_values(rope, head_dim=head_dim, default_share=default_share)
    return {
        "rope_theta": rope.theta,
        **share,
        **_original_values(rope.scaling),
        OLDER: _older(scaling),
        NEWER: {"rope_theta": rope.theta, **share, **scaling},
    }


def layered_rope_values(
    ropes: Mapping[str, RopeConfig],
    *,
    head_dim: int,
    context_tokens: int,
    layers: Mapping[str, LayerRope] = GEMMA3_LAYERS,
    default_share: float = 1.0,
) -> JsonValues:
    """Returns the keys of a `config.json` with a rotary embedding per type of layer.

    A difference that the older spelling has no word for stands in the newer one alone;
    older versions of transformers do not see it.
    """
    nested: JsonValues = {}
    older: JsonValues = {OLDER: None}
    for name, layer in layers.items():
        rope = ropes[name]
        scaling = _scaling_values(rope.scaling, context_tokens)
        share = _share_values(rope, head_dim=head_dim, default_share=default_share)
        nested[name] = {"rope_theta": rope.theta, **share, **scaling}
        older[layer.theta_key] = rope.theta
        if layer.is_scaled:
            older |= {OLDER: _older(scaling), **_original_values(rope.scaling)}
    return {**older, NEWER: nested}


def _scaling_values(scaling: RopeScaling | None, context_tokens: int) -> JsonValues:
    match scaling:
        case None:
            return {"rope_type": "default"}
        case LinearRope():
            return {"rope_type": "linear", "factor": scaling.factor}
        case DynamicRope():
            return {"rope_type": "dynamic", "factor": scaling.factor}
        case Llama3Rope():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                ORIGINAL_KEY: scaling.original_context,
            }
        case YarnRope():
            return _yarn_values(scaling)
        case LongRope():
            return _longrope_values(scaling, context_tokens)


def _yarn_values(scaling: YarnRope) -> JsonValues:
    optional = {
        "attention_factor": scaling.attention_factor,
        "mscale": scaling.mscale,
        "mscale_all_dim": scaling.mscale_all_dim,
        "truncate": None if scaling.is_truncated else False,
    }
    return {
        "rope_type": "yarn",
        "factor": scaling.factor,
        ORIGINAL_KEY: scaling.original_context,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        **_given(optional),
    }


def _longrope_values(scaling: LongRope, context_tokens: int) -> JsonValues:
    reach = context_tokens / scaling.original_context
    optional = {
        "factor": None if scaling.factor == reach else scaling.factor,
        "attention_factor": scaling.attention_factor,
    }
    return {
        "rope_type": "longrope",
        "short_factor": list(scaling.short_factor),
        "long_factor": list(scaling.long_factor),
        ORIGINAL_KEY: scaling.original_context,
        **_given(optional),
    }


def _given(values: JsonValues) -> JsonValues:
    return {key: value for key, value in values.items() if value is not None}


def _older(scaling: JsonValues) -> JsonValues | None:
    """The section of older versions.

    Those insist for longrope on three keys, one of them "type".
    """
    match scaling["rope_type"]:
        case "default":
            return None
        case "longrope":
            rest = {k: v for k, v in scaling.items() if k != ORIGINAL_KEY}
            return {"type": rest.pop("rope_type"), **rest}
    return scaling


def _original_values(scaling: RopeScaling | None) -> JsonValues:
    """Returns what longrope has beside its section, not in it."""
    if not isinstance(scaling, LongRope):
        return {}
    return {ORIGINAL_KEY: scaling.original_context}


def _share_values(
    rope: RopeConfig, *, head_dim: int, default_share: float
) -> JsonValues:
    dims = rope.rotated_dims(head_dim)
    share = dims / head_dim
    if int(head_dim * share) < dims:  # as it is read; 49 * (1 / 49) is below 1
        share = math.nextafter(share, 1.0)
    return {} if share == default_share == 1.0 else {SHARE_KEYS[0]: share}

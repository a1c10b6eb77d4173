"""Reads the one object of a `config.json` that stretches a rotary embedding.

It stands under `rope_scaling` or `rope_parameters`, or for each type of layer under
`rope_parameters`; `rope_fields.py` knows where, this module what its keys mean:

    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

A key that is not known is refused, for it may change the arithmetic.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.json_file import Fields, shown
from mell_jax.models.rope_scaling import (
    MAX_CONTEXT,
    DynamicRope,
    LinearRope,
    Llama3Rope,
    LongRope,
    RopeScaling,
    YarnRope,
)

Value = TypeVar("Value")

THETA_KEYS = ("rope_theta", "rotary_emb_base")
"""The base, in the spellings of several libraries."""
SHARE_KEYS = (
    *("partial_rotary_factor", "rope_pct", "rotary_pct", "rope_percent"),
    "rope_percentage",
)
"""The part of a head's channels that turns, likewise."""
CONTEXT_KEYS = ("max_position_embeddings", "max_sequence_length")
ORIGINAL_KEY = "original_max_position_embeddings"
_TYPE_KEYS = ("rope_type", "type")
_OTHER_NAMES = {"su": "longrope"}


def rope_type(section: Fields) -> str:
    """Returns the type that a section names, "default" where it names none.

    Raises:
      CheckpointError: the type is not known, or the section names two.
    """
    if section.has("mrope_section"):
        _refuse_mrope(section, "mrope_section")
    named = {key: section.text(key) for key in _TYPE_KEYS if section.has(key)}
    kinds = {_OTHER_NAMES.get(name, name) for name in named.values()}
    if len(kinds) > 1:
        section.fail(
            "rope_type",
            f"is {shown(named['rope_type'])} and type is {shown(named['type'])}; "
            "delete the one that is not meant",
        )
    kind = next(iter(kinds), "default")
    key = next(iter(named), "rope_type")
    if kind == "mrope":
        _refuse_mrope(section, key)
    if kind not in _TYPES:
        section.fail(
            key, f"must be one of {', '.join((*_TYPES, 'su'))}; found {kind[:60]!r}"
        )
    return kind


def read_scaling(section: Fields, *, model: Fields) -> RopeScaling | None:
    """Returns how a section stretches the embedding, None where it does not.

    `model` is the object that the section is in.

    Raises:
      CheckpointError: naming the file, the key and the rule.
    """
    kind = rope_type(section)
    _refuse_unknown(section, kind)
    try:
        return _TYPES[kind].read(section, model)
    except CheckpointError:
        raise
    except ValueError as error:  # a range that the scaling checks
        raise CheckpointError(f"{section.where}: {error}") from error


def original_context(section: Fields, *, model: Fields) -> int:
    """Returns the context before it was stretched, in tokens.

    It stands in the section or beside it; where it does not, nothing was stretched.

    Raises:
      CheckpointError: the two places disagree.
    """
    found = {
        f"{holder.where}: {ORIGINAL_KEY}": holder.integer(ORIGINAL_KEY)
        for holder in (section, model)
        if holder.has(ORIGINAL_KEY)
    }
    return agreed(found) if found else trained_context(model)


def trained_context(model: Fields) -> int:
    """Returns the longest context by its own key or an older one, in tokens.

    Where both are there it is the larger one: Vicuna's 16K models name the context
    before they were stretched, and the one after.
    """
    keys = [key for key in CONTEXT_KEYS if model.has(key)] or CONTEXT_KEYS[:1]
    for key in keys:
        if not (1 <= model.integer(key) <= MAX_CONTEXT):
            model.fail(key, f"must be from 1 to {MAX_CONTEXT} tokens")
    return max(map(model.integer, keys))


def agreed(found: Mapping[str, Value]) -> Value:
    """Returns the one value that all places, by their names, give.

    Raises:
      CheckpointError: two places give different values.
    """
    (first, value), *others = found.items()
    for place, other in others:
        if other != value:
            raise CheckpointError(
                f"{first} is {str(value)[:60]} and {place} is {str(other)[:60]}; keep "
                "the one that the model was trained with and delete the other"
            )
    return value


@dataclass(frozen=True, slots=True)
class _Type:
    read: Callable[[Fields, Fields], RopeScaling | None]
    keys: tuple[str, ...] = ()


def _default(section: Fields, model: Fields) -> None:
    del section, model


def _linear(section: Fields, model: Fields) -> LinearRope:
    del model
    return LinearRope(factor=section.number("factor"))


def _dynamic(section: Fields, model: Fields) -> DynamicRope:
    del model
    return DynamicRope(factor=section.number("factor"))


def _llama3(section: Fields, model: Fields) -> Llama3Rope:
    return Llama3Rope(
        factor=section.number("factor"),
        low_freq_factor=section.number("low_freq_factor"),
        high_freq_factor=section.number("high_freq_factor"),
        original_context=original_context(section, model=model),
    )


def _yarn(section: Fields, model: Fields) -> YarnRope:
    return YarnRope(
        factor=section.number("factor"),
        original_context=original_context(section, model=model),
        beta_fast=section.number("beta_fast", default=32.0),
        beta_slow=section.number("beta_slow", default=1.0),
        attention_factor=_number_or_none(section, "attention_factor"),
        mscale=_number_or_none(section, "mscale"),
        mscale_all_dim=_number_or_none(section, "mscale_all_dim"),
        is_truncated=section.flag("truncate", default=True),
    )


def _longrope(section: Fields, model: Fields) -> LongRope:
    original = original_context(section, model=model)
    if original < 1:
        section.fail(ORIGINAL_KEY, f"must be positive, found {original}")
    reach = trained_context(model) / original
    return LongRope(
        short_factor=section.numbers("short_factor"),
        long_factor=section.numbers("long_factor"),
        original_context=original,
        factor=section.number("factor", default=reach),
        attention_factor=_number_or_none(section, "attention_factor"),
    )


_TYPES = {
    "default": _Type(_default),
    "linear": _Type(_linear, ("factor",)),
    "dynamic": _Type(_dynamic, ("factor",)),
    "llama3": _Type(
        _llama3, ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL_KEY)
    ),
    "yarn": _Type(
        _yarn,
        (
            *("factor", ORIGINAL_KEY, "beta_fast", "beta_slow", "attention_factor"),
            *("mscale", "mscale_all_dim", "truncate"),
            "finetuned",  # of the first YaRN models; says nothing of the arithmetic
        ),
    ),
    "longrope": _Type(
        _longrope,
        ("factor", ORIGINAL_KEY, "attention_factor", "short_factor", "long_factor"),
    ),
}


def _number_or_none(section: Fields, key: str) -> float | None:
    return section.number(key) if section.has(key) else None


def _refuse_mrope(section: Fields, key: str) -> None:
    section.fail(
        key,
        "places images and video (mrope), which is not supported; take a model for "
        "text only",
    )


def _refuse_unknown(section: Fields, kind: str) -> None:
    known = (*_TYPE_KEYS, *THETA_KEYS, *SHARE_KEYS, *_TYPES[kind].keys)
    for key in section.values:
        if section.has(key) and key not in known:
            listed = ", ".join(_TYPES[kind].keys) or "none but rope_theta"
            section.fail(
                key,
                f"is not supported for the rope type {kind} (keys of it: {listed}); "
                "delete it only if the model was trained without it",
            )

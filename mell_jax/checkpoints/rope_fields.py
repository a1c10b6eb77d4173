"""Reads the rotary embedding of a `config.json`, in every spelling that is published.

    older   "rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}
    newer   "rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}
    layers  "rope_parameters": {"full_attention": {...}, "sliding_attention": {...}}

Two settings that are both there have to agree: libraries differ in which one they
take, so neither is dropped without a word. `rope_values.py` writes what this reads.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_section import (
    CONTEXT_KEYS,
    ORIGINAL_KEY,
    SHARE_KEYS,
    THETA_KEYS,
    agreed,
    read_scaling,
    rope_type,
    trained_context,
)
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import DynamicRope, RopeScaling, YarnRope

OLDER = "rope_scaling"
NEWER = "rope_parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRope:
    """Says where the rope of one type of layer stands in the older spelling."""

    theta_key: str
    default_theta: float
    is_scaled: bool
    """Whether `rope_scaling` is meant for this type of layer."""


GEMMA3_LAYERS: Mapping[str, LayerRope] = MappingProxyType(
    {
        "full_attention": LayerRope(
            theta_key="rope_theta", default_theta=1_000_000.0, is_scaled=True
        ),
        "sliding_attention": LayerRope(
            theta_key="rope_local_base_freq", default_theta=10_000.0, is_scaled=False
        ),
    }
)
"""Two bases, and only layers that see everything are stretched."""
OLMO3_LAYERS: Mapping[str, LayerRope] = MappingProxyType(
    {
        name: LayerRope(
            theta_key="rope_theta", default_theta=500_000.0, is_scaled=is_scaled
        )
        for name, is_scaled in (("full_attention", True), ("sliding_attention", False))
    }
)
"""One base, and only layers that see everything are stretched."""


def read_rope(
    fields: Fields,
    *,
    head_dim: int,
    default_theta: float = 10_000.0,
    is_interleaved: bool = False,
    default_share: float = 1.0,
) -> RopeConfig:
    """Returns the rotary embedding that all layers of a `config.json` share.

    What the family decides and no key says is given: the base and the turning share of
    a head where the file is silent, and which channels turn together. `LongRope` comes
    out as for a server of the longest context (`RopeConfig.for_context`).

    Raises:
      CheckpointError: naming the file, the key, the rule and the way out.
    """
    sections = _sections(fields, (OLDER, NEWER))
    for section in sections:
        for key, value in section.values.items():
            if isinstance(value, dict):
                section.fail(key, "is not expected: one setting for all layers is")
    return _read(
        fields,
        sections,
        head_dim=head_dim,
        theta_keys=THETA_KEYS,
        default_theta=default_theta,
        is_interleaved=is_interleaved,
        default_share=default_share,
    )


def read_layered_ropes(
    fields: Fields,
    *,
    head_dim: int,
    layers: Mapping[str, LayerRope] = GEMMA3_LAYERS,
    is_interleaved: bool = False,
    default_share: float = 1.0,
) -> dict[str, RopeConfig]:
    """Returns the rotary embedding of each type of layer that `layers` names.

    Raises:
      CheckpointError: naming the file, the key, the rule and the way out.
    """
    older = _sections(fields, (OLDER,))
    nested = fields.section(NEWER)
    for key in nested.values:
        if key not in layers:
            nested.fail(
                key, f"is not expected: one setting for each of {', '.join(layers)} is"
            )
    return {
        name: _read(
            fields,
            (*(older if layer.is_scaled else ()), *_sections(nested, (name,))),
            head_dim=head_dim,
            theta_keys=(layer.theta_key,),
            default_theta=layer.default_theta,
            is_interleaved=is_interleaved,
            default_share=default_share,
        )
        for name, layer in layers.items()
    }


def context_of(fields: Fields) -> int:
    """Returns the longest context that a `config.json` allows, in tokens.

    A model stretched by yarn reaches `factor` times its original context, though its
    `max_position_embeddings` often still names the original one. One of type dynamic
    ends there: beyond it, its frequencies would change.

    Raises:
      CheckpointError: naming the file, the key and the rule.
    """
    context = trained_context(fields)
    for section in _flat_sections(fields):
        scaling = read_scaling(section, model=fields)
        if isinstance(scaling, DynamicRope) and fields.has(CONTEXT_KEYS[0]):
            context = fields.integer(CONTEXT_KEYS[0])
        is_original_known = section.has(ORIGINAL_KEY) or fields.has(ORIGINAL_KEY)
        if isinstance(scaling, YarnRope) and is_original_known:
            context = max(context, int(scaling.factor * scaling.original_context))
    return context


def _sections(fields: Fields, keys: Iterable[str]) -> tuple[Fields, ...]:
    """Those that say something: an object without values says nothing."""
    found = (fields.section(key) for key in keys)
    return tuple(section for section in found if any(map(section.has, section.values)))


def _flat_sections(fields: Fields) -> tuple[Fields, ...]:
    """All sections, those of types of layers in place of what holds them."""
    found: list[Fields] = []
    for section in _sections(fields, (OLDER, NEWER)):
        nested = [k for k, value in section.values.items() if isinstance(value, dict)]
        found += _sections(section, nested) if nested else [section]
    return tuple(found)


def _read(
    fields: Fields,
    sections: Sequence[Fields],
    *,
    head_dim: int,
    theta_keys: tuple[str, ...],
    default_theta: float,
    is_interleaved: bool,
    default_share: float,
) -> RopeConfig:
    places = [(fields, theta_keys), *((section, THETA_KEYS) for section in sections)]
    theta = agreed(_numbers(places) or {"": default_theta})
    places = [(holder, SHARE_KEYS) for holder in (fields, *sections)]
    shares = _numbers(places) or {f"{fields.where}: {SHARE_KEYS[0]}": default_share}
    dims = _dims(shares, head_dim=head_dim)
    try:
        rope = RopeConfig(
            theta=theta,
            dims=None if dims == head_dim else dims,
            is_interleaved=is_interleaved,
            scaling=_scaling(fields, sections),
        )
        rope.rotated_dims(head_dim)
    except CheckpointError:
        raise
    except ValueError as error:  # a rule that RopeConfig checks
        where = sections[-1].where if sections else fields.where
        raise CheckpointError(f"{where}: {error}") from error
    return rope.for_context(context_of(fields))


def _numbers(
    places: Iterable[tuple[Fields, tuple[str, ...]]],
) -> dict[str, float]:
    """Numbers by the names of their places."""
    return {
        f"{holder.where}: {key}": holder.number(key)
        for holder, keys in places
        for key in keys
        if holder.has(key)
    }


def _dims(shares: Mapping[str, float], *, head_dim: int) -> int:
    """How many channels of a head turn, by the part of them that each place gives."""
    share = agreed(shares)
    dims = int(head_dim * share) if 0.0 < share <= 1.0 else 0
    if dims < 2 or dims % 2:
        raise CheckpointError(
            f"{next(iter(shares))} must be above 0, at most 1, and leave an even "
            f"number of a head's {head_dim} channels to turn; found {share}, which "
            f"leaves {dims}"
        )
    return dims


def _scaling(fields: Fields, sections: Sequence[Fields]) -> RopeScaling | None:
    """Returns what all sections say; there are two at most."""
    found = [read_scaling(section, model=fields) for section in sections]
    for section, scaling in zip(sections[1:], found[1:], strict=True):
        if scaling != found[0]:
            raise CheckpointError(
                f"{sections[0].where} and {section.where} disagree: "
                f"{_difference(sections, found)}. Libraries differ in which one they "
                f"take; keep one. To stretch the context, put all values of {OLDER} in "
                f"place of rope_type into {NEWER}, beside its rope_theta, and delete "
                f"{OLDER}; to serve the model as it was saved, delete {OLDER}"
            )
    return found[0] if found else None


def _difference(
    sections: Sequence[Fields], scalings: Sequence[RopeScaling | None]
) -> str:
    kinds = [rope_type(section) for section in sections]
    first, second = (asdict(scaling) if scaling else {} for scaling in scalings)
    if kinds[0] != kinds[1]:
        return f"rope_type is {kinds[0]} and {kinds[1]}"
    names = [name for name in first if first[name] != second[name]]
    return f"of type {kinds[0]} both, with different {', '.join(names)}"

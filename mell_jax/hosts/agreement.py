"""Hosts of a fleet serve the same models, with instances of one size."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TypeVar

from mell_jax.engine.frames import EngineInfo
from mell_jax.hosts.wire import Served
from mell_jax.scheduler.placement.model import ModelSpec

_MOST = 3
Half = TypeVar("Half", EngineInfo, ModelSpec)


def disagreement(models: tuple[Served, ...], *, fleet: tuple[Served, ...]) -> str:
    """Returns what keeps a host's models from being those of a fleet; or nothing."""
    names = [model.info.model_name for model in models]
    wanted = [model.info.model_name for model in fleet]
    if names != wanted:
        return f"it serves {', '.join(names)}, and the fleet {', '.join(wanted)}"
    found = [
        difference
        for model, other in zip(models, fleet, strict=True)
        for difference in _differences(model, other)
    ]
    rest = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return "; ".join(found[:_MOST]) + rest


def _differences(model: Served, other: Served) -> Iterator[str]:
    name = model.info.model_name
    if model.fingerprint != other.fingerprint:
        yield (
            f"the files of {name} are others: their fingerprint is "
            f"{model.fingerprint}, the fleet's {other.fingerprint}"
        )
    yield from _unequal(model.info, other.info, of=name)
    yield from _unequal(_built(model), _built(other), of=name)


def _unequal(own: Half, fleets: Half, *, of: str) -> Iterator[str]:
    """Yields the fields that differ, by name."""
    for field in fields(own):
        value, wanted = getattr(own, field.name), getattr(fleets, field.name)
        if value != wanted:
            yield (
                f"{field.name} of {of} is {value!r:.200}, the fleet's {wanted!r:.200}"
            )


def _built(model: Served) -> ModelSpec:
    """Returns what an instance holds, without what differs as it is measured."""
    return replace(model.spec, growth_pages_per_s=0.0, load_s=0.0)

"""The loads of hosts are added up to that of a fleet."""

from collections.abc import Sequence
from dataclasses import fields

from mell_jax.engine.frames import EngineLoad

_OWN = ("fleet", "phases")  # are no numbers

NO_LOAD = EngineLoad(
    running=0,
    waiting=0,
    waiting_tokens=0,
    used_pages=0,
    cached_pages=0,
    free_pages=0,
    generated_tokens=0,
    prefix_hit_tokens=0,
    prefix_query_tokens=0,
    preemptions=0,
    steps=0,
    compilations=0,
)


def sum_of(loads: Sequence[EngineLoad]) -> EngineLoad:
    """Returns how busy all of them are together."""
    names = [field.name for field in fields(EngineLoad) if field.name not in _OWN]
    return EngineLoad(
        **{name: sum(getattr(load, name) for load in loads) for name in names}
    )

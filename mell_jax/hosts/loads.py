"""The loads of hosts are added up to that of a fleet.

What is counted since the start stays counted when a host is gone: a name whose count
falls has another process, and what the one before had counted is kept.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from mell_jax.engine.fleet.merge import sum_loads
from mell_jax.engine.fleet.tally import Past
from mell_jax.engine.frames import EngineLoad
from mell_jax.engine.hosts.load import HostLoad
from mell_jax.scheduler.ids import Epoch

MOST_NAMES = 1000
"""Of hosts that may come back, and go on counting."""
_NOW = (
    *("running", "waiting", "waiting_tokens"),
    *("used_pages", "cached_pages", "free_pages"),
)  # are of now; all others count since the start

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
_NOTHING = HostLoad(load=NO_LOAD, groups=(), sent_bytes=0, stages=0)


def sum_of(loads: Sequence[EngineLoad]) -> EngineLoad:
    """Returns how busy all of them are together."""
    return sum_loads(
        loads,
        past=Past(),
        waiting=0,
        preemptions=0,
        compilations=sum(load.compilations for load in loads),
    )


@final
class HostLoads:
    """These are the loads of all hosts, as each has told them last."""

    def __init__(self) -> None:
        self.told: dict[Epoch, HostLoad] = {}  # of hosts there are
        self._latest: dict[str, HostLoad] = {}  # by name, also of those that are gone
        self._names: dict[Epoch, str] = {}
        self._past = _NOTHING  # counts of processes that are gone

    def begin(self, epoch: Epoch, *, name: str) -> None:
        """A host is there."""
        self._names[epoch] = name

    def tell(self, epoch: Epoch, load: HostLoad) -> None:
        """A host that is there is so busy."""
        name = self._names[epoch]
        before = self._latest.get(name)
        if before is not None and _has_begun_anew(load, before=before):
            self._past = _plus(self._past, before)
        self._latest[name] = self.told[epoch] = load
        if len(self._latest) > MOST_NAMES:
            self._forget_names()

    def forget(self, epoch: Epoch) -> None:
        """A host is gone."""
        self.told.pop(epoch, None)
        self._names.pop(epoch, None)

    def _forget_names(self) -> None:
        """Takes those of whom nothing was heard for longest to be gone for good."""
        here = set(self._names.values())
        for name in [name for name in self._latest if name not in here]:
            if len(self._latest) <= MOST_NAMES:
                return
            self._past = _plus(self._past, self._latest.pop(name))

    def whole(self) -> HostLoad:
        """Returns how busy all of them are, and what all have counted."""
        counted = self._past
        for load in self._latest.values():
            counted = _plus(counted, load)
        now = sum_of([load.load for load in self.told.values()])
        busy = {name: getattr(now, name) for name in _NOW}
        return replace(
            counted,
            load=replace(counted.load, **busy),
            groups=tuple(group for load in self.told.values() for group in load.groups),
        )


def _has_begun_anew(load: HostLoad, *, before: HostLoad) -> bool:
    counts = ("steps", "generated_tokens", "prefix_query_tokens")
    return load.sent_bytes < before.sent_bytes or any(
        getattr(load.load, name) < getattr(before.load, name) for name in counts
    )


def _plus(counted: HostLoad, load: HostLoad) -> HostLoad:
    """Returns the counts of both; nothing else of them is of use."""
    return HostLoad(
        load=sum_of([counted.load, load.load]),
        groups=(),
        sent_bytes=counted.sent_bytes + load.sent_bytes,
        stages=counted.stages + load.stages,
    )

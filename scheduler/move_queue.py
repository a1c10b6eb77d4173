"""Moves that wait to begin: one division of links and prefill for all of them.

    asked for since the last division -> begun, as a copy or as tokens
                                      -> deferred: asked for again at the next epoch,
                                         as urgent

A deferred move keeps its reservation and is never called off for want of a link: the
machine counts on the pages that it will free and lets requests pause until they are,
and a policy asked again with the same books would answer with the same move, so that a
fleet of slow links would stand still. Whoever plans more than links carry pays with
pages held twice, and with violations that show.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mell_jax.scheduler.ids import MoveId
from mell_jax.scheduler.transfer import Capacities, Mode, MoveDemand

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning(Generic[T]):
    """A move that begins now."""

    item: T  # what was given to `ask`
    demand: MoveDemand
    mode: Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Generic[T]):
    """What became of the moves, those that begin in the order to begin them."""

    begun: tuple[Beginning[T], ...]
    deferrals: int
    violations: int


class MoveQueue(Generic[T]):
    """The moves of a fleet that have not begun.

    Args:
      capacities: what links and targets can do; renewed here.
    """

    def __init__(self, capacities: Capacities) -> None:
        self._capacities = capacities
        self._asked: dict[MoveId, T] = {}
        self._deferred: dict[MoveId, T] = {}
        self._late: set[MoveId] = set()  # of those asked for, deferred before

    @property
    def is_asked(self) -> bool:
        """Whether a move waits for `divide`."""
        return bool(self._asked)

    def ask(self, move: MoveId, item: T) -> None:
        self._asked[move] = item

    def take_all(self) -> list[T]:
        """Everything asked for, undivided."""
        asked, self._asked = self._asked, {}
        return list(asked.values())

    def renew(self) -> None:
        """A new epoch begins; what was deferred is asked for again."""
        self._capacities.renew()
        self._asked |= self._deferred
        self._late |= self._deferred.keys()
        self._deferred = {}

    def divide(self, demand_of: Callable[[T], MoveDemand | None]) -> Settled[T]:
        """Settles everything asked for.

        Args:
          demand_of: what a move takes now; None if it has ended meanwhile.
        """
        asked, self._asked = self._asked, {}
        demands = {}
        for move, item in asked.items():
            demand = demand_of(item)
            if demand is not None:
                is_urgent = demand.is_urgent or move in self._late
                demands[move] = dataclasses.replace(demand, is_urgent=is_urgent)
        division = self._capacities.divide(list(demands.values()))
        self._late -= asked.keys()
        self._deferred |= {move: asked[move] for move in division.deferred}
        return Settled(
            begun=tuple(
                Beginning(item=asked[move], demand=demands[move], mode=mode)
                for move, mode in division.modes.items()
            ),
            deferrals=len(division.deferred),
            violations=division.violations,
        )

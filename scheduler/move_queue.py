"""Moves wait here to begin: one division of links and prefill serves them all.

    asked for since the last division -> begun, as a copy or as tokens
                                      -> deferred: asked for again at the next epoch,
                                         as urgent

A deferred move keeps its reservation and is never called off for want of a link: the
machine counts on the pages that it will free and lets requests pause until they are,
and a policy asked again with the same books would answer with the same move, so that a
fleet of slow links would stand still. A policy that plans more than the links carry
pays with pages held twice, and with violations that show.
"""

import dataclasses
from collections.abc import Callable

from mell_jax.scheduler.ids import MoveId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.transfer import Capacities, Division, Mode, MoveDemand


class MoveQueue:
    """The queue holds the moves of a fleet that have not begun.

    Args:
      capacities: what links and targets can do; renewed here.
      mode: of every move that can go so, which then all begin at once; None: as
        divided.
    """

    def __init__(self, capacities: Capacities, *, mode: Mode | None = None) -> None:
        self._capacities = capacities
        self._mode = mode
        self._asked: dict[MoveId, plan.Move] = {}
        self._deferred: dict[MoveId, plan.Move] = {}
        self._late: set[MoveId] = set()  # of those asked for, deferred before

    @property
    def is_asked(self) -> bool:
        """Tells whether a move waits for `divide`."""
        return bool(self._asked)

    def ask(self, move: plan.Move) -> None:
        """Files a move for the next division."""
        self._asked[move.move] = move

    def renew(self) -> None:
        """Begins an epoch: links have room, and deferred moves are asked for again."""
        self._capacities.renew()
        self._asked |= self._deferred
        self._late |= self._deferred.keys()
        self._deferred = {}

    def divide(self, demand_of: Callable[[plan.Move], MoveDemand | None]) -> Division:
        """Decides which of the moves asked for begin now, and in which mode.

        Args:
          demand_of: what a move needs now; None if it has ended meanwhile.
        """
        asked, self._asked = self._asked, {}
        late, self._late = self._late & asked.keys(), self._late - asked.keys()
        demands = [
            dataclasses.replace(demand, is_late=move in late)
            for move, item in asked.items()
            if (demand := demand_of(item)) is not None
        ]
        if self._mode is not None:
            begun = tuple(
                (demand, self._mode if self._mode in demand.modes else Mode.KV)
                for demand in demands
            )
            return Division(begun=begun, deferred=(), violations=0)
        division = self._capacities.divide(demands)
        self._deferred |= {d.move.move: d.move for d in division.deferred}
        return division

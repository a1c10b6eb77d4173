"""Moves that were asked for begin now, as the fleet can carry them, or wait.

The life of a move that waits stands in `scheduler.move_queue`; before that, it waits
here until its target is open. A request begins one move in a round: what stands still
is moved in no time, and a policy that moves it to and fro would keep the engine.
"""

from collections.abc import Callable

from mell_jax.engine.fleet.profile import Profile
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.move_queue import MoveQueue
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.transfer import (
    Capacities,
    Division,
    LinkId,
    Mode,
    MoveDemand,
)


class Moves:
    """The moves of a fleet that were asked for and have not begun.

    Args:
      profile: what links and targets can do.
      epoch_s: between two calls of `renew`.
      mode: of every move, which then all begin at once; None: as divided.
    """

    def __init__(self, profile: Profile, *, epoch_s: float, mode: Mode | None) -> None:
        self._profile = profile
        self._slack = profile.prefill_tokens(epoch_s)
        self._prefill_tokens: dict[
            DeviceGroupId, float
        ] = {}  # of the models there last
        self._open: set[DeviceGroupId] = set()
        self._early: dict[DeviceGroupId, list[plan.Move]] = {}  # to others
        self._begun: set[RequestId] = set()  # a move in this round
        self._next: list[plan.Move] = []  # of these, for the next one
        capacities = Capacities(
            link_bytes=profile.link_bytes(epoch_s),
            prefill_tokens=self._prefill_tokens,
        )
        self._queue = MoveQueue(capacities, mode=mode)

    @property
    def is_asked(self) -> bool:
        """Tells whether a move waits for `divide`."""
        return self._queue.is_asked

    def links(self, move: plan.Move) -> tuple[LinkId, ...]:
        """Returns the links that a move takes part of."""
        return self._profile.links(move.source, move.target)

    def target_opens(self, device: DeviceGroupId, model: ModelId) -> None:
        """An instance of `model` may be the target of moves from now on."""
        self._open.add(device)
        self._prefill_tokens[device] = self._slack[device, model]
        for move in self._early.pop(device, ()):
            self.ask(move)

    def target_closes(self, device: DeviceGroupId) -> None:
        """No instance is there any more; moves to it have ended."""
        self._open.discard(device)
        self._early.pop(device, None)

    def ask(self, move: plan.Move) -> None:
        """A move waits until its target is open, and then for the next division."""
        if move.target not in self._open:
            self._early.setdefault(move.target, []).append(move)
        elif move.request in self._begun:
            self._next.append(move)
        else:
            self._queue.ask(move)

    def begin_round(self) -> None:
        """Every request may begin a move again."""
        self._begun.clear()
        asked, self._next = self._next, []
        for move in asked:
            self.ask(move)

    def renew(self) -> None:
        """A new epoch begins; what was deferred is asked for again."""
        self._queue.renew()

    def divide(self, demand_of: Callable[[plan.Move], MoveDemand | None]) -> Division:
        """Settles everything asked for; a move without demand has ended meanwhile."""
        division = self._queue.divide(demand_of)
        self._begun.update(demand.move.request for demand, _ in division.begun)
        return division

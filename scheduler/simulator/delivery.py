"""Moves that have begun get to their targets in one of these ways, and commit.

    copy    links carry the pages ----------> a fixed pace: it commits
                                   '--------> steps: the row ends its step, stands still
                                              while its tail is sent, and commits
    replay  links carry the tokens, the target computes them, commits
                                   '--------> steps: then the row ends its step, and
                                              what it made meanwhile is computed, too

So a moved row has a gap only where instances make steps.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, final

from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.simulator.agenda import Agenda
from mell_jax.scheduler.simulator.carriage import Carriage
from mell_jax.scheduler.simulator.links import SharedLinks
from mell_jax.scheduler.simulator.request import Request
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.step_pace import StepPace
from mell_jax.scheduler.transfer import Mode, MoveDemand

TAIL_PAGES = 2  # sent while a row stands still, as the engine's sources do it

Commit = Callable[[MoveId, int], None]
Sent = Callable[[MoveDemand], None]


class Delivery(Protocol):
    """A delivery carries moves out."""

    def begin(self, demand: MoveDemand, *, mode: Mode) -> float | None:
        """Begins a move; returns when it commits, if that is known by now."""


@final
class Wires:
    """Bytes between devices: one move after the other, or all at once if shared."""

    def __init__(
        self,
        settings: Settings,
        *,
        carriage: Carriage,
        agenda: Agenda,
        ready_s: Mapping[DeviceGroupId, float],
    ) -> None:
        self._carriage = carriage
        self._agenda = agenda
        self._ready_s = ready_s
        self._shared = (
            SharedLinks(settings, agenda=agenda) if settings.are_links_shared else None
        )

    @property
    def are_shared(self) -> bool:
        return self._shared is not None

    def send(self, demand: MoveDemand, *, amount_bytes: float, then: Sent) -> None:
        """Calls `then(demand)` once a target that is ready has so many bytes."""
        if self._shared is not None:
            self._shared.carry(
                demand.links,
                amount_bytes=amount_bytes,
                from_s=self._ready_s[demand.move.target],
                then=then,
                subject=demand,
            )
            return
        now_s = self._agenda.now_s
        at_s = self._carriage.carry(demand, amount_bytes=amount_bytes, now_s=now_s)
        self._agenda.note(at_s, lambda sent, number: then(sent), demand)


@final
class FixedDelivery:
    """A move commits when all that is sent has come, and is computed if need be."""

    def __init__(
        self, *, carriage: Carriage, wires: Wires, agenda: Agenda, commit: Commit
    ) -> None:
        self._carriage = carriage
        self._wires = wires
        self._agenda = agenda
        self._commit = commit

    def begin(self, demand: MoveDemand, *, mode: Mode) -> float | None:
        """Knows when it commits, unless other moves divide the links with it."""
        move = demand.move.move
        if self._wires.are_shared:
            then = self._replay if mode is Mode.TOKENS else self._there
            amount = demand.link_bytes(mode)
            self._wires.send(demand, amount_bytes=amount, then=then)
            return None
        now_s = self._agenda.now_s
        ends_s = self._carriage.begin(demand, mode=mode, now_s=now_s)
        self._agenda.note(ends_s, self._commit, move)
        return ends_s

    def _there(self, demand: MoveDemand) -> None:
        self._commit(demand.move.move, 0)

    def _replay(self, demand: MoveDemand) -> None:
        ends_s = self._carriage.replay(demand, there_s=self._agenda.now_s)
        self._agenda.note(ends_s, self._commit, demand.move.move)


@final
class StepDelivery:
    """A row goes on in the steps of its source until little of it is left to send.

    Args:
      find: the request of that id, None once it has ended.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pace: StepPace,
        wires: Wires,
        find: Callable[[RequestId], Request | None],
        commit: Commit,
    ) -> None:
        self._tail_tokens = TAIL_PAGES * settings.page_tokens
        self._pace = pace
        self._wires = wires
        self._find = find
        self._commit = commit

    def begin(self, demand: MoveDemand, *, mode: Mode) -> float | None:
        """Does not know when it commits: that depends on the steps of both ends."""
        amount = demand.link_bytes(mode)
        if mode is Mode.KV:
            amount -= self._tail_bytes(demand)
            self._wires.send(demand, amount_bytes=amount, then=self._stop)
        else:
            self._wires.send(demand, amount_bytes=amount, then=self._replay)
        return None

    def _tail_bytes(self, demand: MoveDemand) -> float:
        tokens = min(self._tail_tokens, demand.new_tokens)
        return tokens * demand.bytes_per_token

    def _owner(self, demand: MoveDemand) -> Request | None:
        """Returns the request of a move that is still on."""
        request = self._find(demand.move.request)
        is_on = request is not None and request.move == demand.move.move
        return request if is_on else None

    # A copy.

    def _stop(self, demand: MoveDemand) -> None:
        request = self._owner(demand)
        if request is not None:
            self._pace.hold(request, lambda held: self._send_tail(demand))

    def _send_tail(self, demand: MoveDemand) -> None:
        amount = self._tail_bytes(demand)
        self._wires.send(demand, amount_bytes=amount, then=self._there)

    def _there(self, demand: MoveDemand) -> None:
        if self._owner(demand) is not None:
            self._commit(demand.move.move, 0)

    # A replay.

    def _replay(self, demand: MoveDemand) -> None:
        request = self._owner(demand)
        if request is not None:
            self._compute(demand, request, first=demand.cached_tokens)

    def _compute(self, demand: MoveDemand, request: Request, *, first: int) -> None:
        """Has the target compute what it has not, until the row stands still."""
        total = self._pace.computed(request)
        if total <= first:
            self._pace.hold(request, lambda held: self._catch_up(demand, total))
            return
        self._pace.replay(
            request,
            target=demand.move.target,
            tokens=range(first, total),
            done=lambda request: self._pace.hold(
                request, lambda held: self._catch_up(demand, total)
            ),
        )

    def _catch_up(self, demand: MoveDemand, first: int) -> None:
        """Has the target compute what was made while it computed the rest."""
        request = self._owner(demand)
        assert request is not None, "a move went on without its request"
        total = self._pace.computed(request)
        if total > first:
            self._pace.replay(
                request,
                target=demand.move.target,
                tokens=range(first, total),
                done=lambda request: self._there(demand),
            )
        else:
            self._there(demand)

"""The tally counts what a controller does, as it does it.

`Counts` is a copy of it that does not change.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from mell_jax.scheduler.hosts.roll import Roll, Seat
from mell_jax.scheduler.ids import MoveId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.transfer import Mode

MOST_PAIRS = 10_000
"""Of device groups between which moves are counted apart; others are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunMoves:
    """So many moves began so."""

    mode: Mode
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedMoves:
    """So many moves ended so."""

    mode: Mode
    is_urgent: bool
    is_committed: bool
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedMoves:
    """So many moves were committed from one device group to another."""

    source: Seat
    target: Seat
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The counts are those since a controller began."""

    begun: tuple[BegunMoves, ...] = ()
    ended: tuple[EndedMoves, ...] = ()
    carried: tuple[CarriedMoves, ...] = ()
    deferred: int = 0  # moves put off to the next epoch
    violations: int = 0  # urgent moves beyond what a link or a target has
    activations: int = 0
    activation_s: float = 0.0
    parkings: int = 0
    losses: int = 0  # of device groups
    replays: int = 0  # requests started again after such a loss
    pauses: int = 0  # a request could not grow at once
    preemptions: int = 0


def plus(counts: Counts, more: Counts) -> Counts:
    """Returns what two controllers of one fleet have counted, in turn."""
    begun: Counter[Mode] = Counter()
    ended: Counter[tuple[Mode, bool, bool]] = Counter()
    carried: Counter[tuple[Seat, Seat]] = Counter()
    for each in (counts, more):
        for start in each.begun:
            begun[start.mode] += start.count
        for end in each.ended:
            ended[end.mode, end.is_urgent, end.is_committed] += end.count
        for pair in each.carried:
            carried[pair.source, pair.target] += pair.count
    return Counts(
        begun=_begun(begun),
        ended=_ended(ended),
        carried=_carried(carried),
        deferred=counts.deferred + more.deferred,
        violations=counts.violations + more.violations,
        activations=counts.activations + more.activations,
        activation_s=counts.activation_s + more.activation_s,
        parkings=counts.parkings + more.parkings,
        losses=counts.losses + more.losses,
        replays=counts.replays + more.replays,
        pauses=counts.pauses + more.pauses,
        preemptions=counts.preemptions + more.preemptions,
    )


def _begun(found: Mapping[Mode, int]) -> tuple[BegunMoves, ...]:
    return tuple(BegunMoves(mode=mode, count=count) for mode, count in found.items())


def _ended(found: Mapping[tuple[Mode, bool, bool], int]) -> tuple[EndedMoves, ...]:
    return tuple(
        EndedMoves(
            mode=mode, is_urgent=is_urgent, is_committed=is_committed, count=count
        )
        for (mode, is_urgent, is_committed), count in found.items()
    )


def _carried(found: Mapping[tuple[Seat, Seat], int]) -> tuple[CarriedMoves, ...]:
    return tuple(
        CarriedMoves(source=source, target=target, count=count)
        for (source, target), count in found.items()
    )


@final
class Tally:
    """The tally is one controller's.

    Args:
      roll: of who is there; read only.
    """

    def __init__(self, roll: Roll) -> None:
        self._roll = roll
        self.activations = self.parkings = self.losses = 0
        self.activation_s = 0.0
        self.replays = self.pauses = self.preemptions = 0
        self._begun: Counter[Mode] = Counter()
        self._ended: Counter[tuple[Mode, bool, bool]] = Counter()
        self._carried: Counter[tuple[Seat, Seat]] = Counter()
        self._under_way: dict[MoveId, tuple[plan.Move, Mode]] = {}

    def begin_move(self, move: plan.Move, *, mode: Mode) -> None:
        self._under_way[move.move] = (move, mode)
        self._begun[mode] += 1

    def end_move(self, event: events.Event) -> None:
        """Counts the end of a move, when that is what placement is told."""
        if not isinstance(event, events.MoveCommitted | events.MoveAborted):
            return
        if event.move not in self._under_way:
            return
        move, mode = self._under_way.pop(event.move)
        is_committed = isinstance(event, events.MoveCommitted)
        self._ended[mode, move.is_urgent, is_committed] += 1
        source, target = map(self._roll.seat_of, (move.source, move.target))
        if is_committed and source is not None and target is not None:
            pair = (source, target)
            if pair in self._carried or len(self._carried) < MOST_PAIRS:
                self._carried[pair] += 1

    def decide(
        self,
        decision: plan.Decision,
        *,
        books: Mapping[RequestId, RequestAccount],
    ) -> None:
        """Counts what placement decides, with these requests in its books."""
        match decision:
            case plan.Preempt():
                self.preemptions += 1
            case plan.Park():
                self.parkings += 1
            case plan.Wait(request=request):
                known = books.get(request)  # one without a place lacks an instance
                self.pauses += known is not None and known.device is not None

    def open(self, took_s: float) -> None:
        """Counts a device group that is ready, after so long."""
        self.activations += 1
        self.activation_s += took_s

    def lose(self, *, requests: int) -> None:
        """Counts a device group that is gone with so many requests."""
        self.losses += 1
        self.replays += requests

    def counts(self, *, deferred: int, violations: int) -> Counts:
        """Returns what was counted so far, with what was counted of links."""
        return Counts(
            begun=_begun(self._begun),
            ended=_ended(self._ended),
            carried=_carried(self._carried),
            deferred=deferred,
            violations=violations,
            activations=self.activations,
            activation_s=self.activation_s,
            parkings=self.parkings,
            losses=self.losses,
            replays=self.replays,
            pauses=self.pauses,
            preemptions=self.preemptions,
        )

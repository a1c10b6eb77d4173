"""Watches what a fleet does: who moved, when tokens came, what stood idle.

    with watch(fleet, log):                    token of a request that moved:
        log.read(fleet.step())                    * * * *     * * *
                                               last one at the source |  downtime: 3
It listens to the placement machine from outside, so that it sees any fleet, counted by
the fleet itself or not. A round is one call of `Fleet.step`; downtime is counted in the
steps of the instance that makes most of them.
"""

import bisect
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

from benchmarks.engine.timers import replaced
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import FinishReason, Handle, StepFrame
from mell_jax.scheduler.ids import MoveId, RequestId
from mell_jax.scheduler.placement import events, plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A move has come to an end."""

    handle: Handle
    pages: int  # when it was decided
    began_s: float
    began_round: int
    ended_s: float
    ended_round: int
    is_committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A gap lies between the last token at a source and the first at its target."""

    steps: int  # 1: as if it had not moved
    seconds: float


@final
class Log:
    """A log keeps everything that was seen.

    Args:
      now_s: the clock of all times.
      on_devices: hears how many instances serve, whenever that may have changed.
    """

    def __init__(
        self,
        now_s: Callable[[], float],
        *,
        on_devices: Callable[[int], None] = lambda devices: None,
    ) -> None:
        self.rounds = 0
        self.round_s: list[float] = []  # when each ended
        self.round_steps: list[int] = []  # of the fastest instance by then
        self.count_steps: Callable[[], int] = lambda: self.rounds
        self.tokens: dict[Handle, list[int]] = {}  # the round of each
        self.moves: list[Moved] = []
        self.finished: dict[Handle, FinishReason] = {}
        self.placed_s: dict[Handle, float] = {}  # since when each has had pages
        self.preemptions = 0
        self.activations = 0
        self._now_s = now_s
        self._on_devices = on_devices
        self._handles: dict[RequestId, Handle] = {}
        self._open: dict[MoveId, tuple[plan.Move, float, int]] = {}

    def note(self, handle: Handle, request: RequestId) -> None:
        """Notes which request a handle is, as soon as it is known."""
        self._handles[request] = handle
        self.tokens[handle] = []

    def read(self, frame: StepFrame | None) -> None:
        """Ends a round with what it had to say."""
        self.round_s.append(self._now_s())
        self.round_steps.append(self.count_steps())
        if frame is not None:
            for handle in frame.handles.tolist():
                self.tokens[Handle(handle)].append(self.rounds)
            for end in frame.finished:
                self.finished[end.handle] = end.reason
        self.rounds += 1

    def heard(self, event: events.Event, *, is_open: Callable[[MoveId], bool]) -> None:
        """Hears an event before the machine takes it."""
        if isinstance(event, events.MoveCommitted | events.MoveAborted):
            if is_open(event.move):
                is_committed = isinstance(event, events.MoveCommitted)
                self._end(event.move, is_committed=is_committed)
        elif isinstance(event, events.Finish):
            for move, (decided, *_) in list(self._open.items()):
                if decided.request == event.request:
                    self._end(move, is_committed=False)

    def answered(self, answer: plan.Plan, *, devices: int) -> None:
        """Hears the answer of the machine."""
        for decision in answer.decisions:
            match decision:
                case plan.Move():
                    self._open[decision.move] = (decision, self._now_s(), self.rounds)
                case plan.Place():
                    handle = self._handles[decision.request]
                    self.placed_s.setdefault(handle, self._now_s())
                case plan.Preempt():
                    self.preemptions += 1
                case plan.Activate():
                    self.activations += 1
                    self._on_devices(devices)
                case plan.Park():
                    self._on_devices(devices)

    def gaps(self) -> list[Gap]:
        """Returns those of committed moves with tokens before and after."""
        found = []
        for move in self.moves:
            rounds = self.tokens[move.handle]
            after = bisect.bisect_right(rounds, move.ended_round)
            if move.is_committed and 0 < after < len(rounds):
                last, first = rounds[after - 1], rounds[after]
                steps = self.round_steps[first] - self.round_steps[last]
                seconds = self.round_s[first] - self.round_s[last]
                found.append(Gap(steps=max(1, steps), seconds=seconds))
        return found

    def _end(self, move: MoveId, *, is_committed: bool) -> None:
        decided, began_s, began_round = self._open.pop(move)
        self.moves.append(
            Moved(
                handle=self._handles[decided.request],
                pages=decided.pages,
                began_s=began_s,
                began_round=began_round,
                ended_s=self._now_s(),
                ended_round=self.rounds,
                is_committed=is_committed,
            )
        )


@contextlib.contextmanager
def watch(fleet: Fleet, log: Log) -> Iterator[None]:
    """Has `log` hear of every event and plan of the fleet within the block."""
    machine = fleet.machine
    step, ledger = machine.step, machine.ledger

    def step_and_tell(event: events.Event, *, now_s: float) -> plan.Plan:
        if isinstance(event, events.Arrive):
            state = fleet.conductor.state(event.request)
            assert state is not None, f"{event} of a request that nobody knows"
            log.note(state.handle, event.request)
        log.heard(event, is_open=lambda move: move in ledger.moves)
        answer = step(event, now_s=now_s)
        log.answered(answer, devices=len(ledger.instances))
        return answer

    log.count_steps = lambda: fleet.conductor.tally.steps
    with replaced(machine, "step", step_and_tell):
        yield

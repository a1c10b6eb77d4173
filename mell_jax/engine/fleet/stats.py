"""What a fleet has done since its start, counted as it happens.

The tally counts; `FleetStats` is a copy of it that does not change. Gaps are kept in
histograms of few buckets, so that nothing here grows.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Self

from mell_jax.scheduler.ids import MoveId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.events import MoveAborted, MoveCommitted
from mell_jax.scheduler.transfer import Mode

if TYPE_CHECKING:  # it shows what is counted here
    from mell_jax.engine.frames import EngineLoad, Handle, StepFrame

STEP_BOUNDS = (1.0, 2.0, 3.0, 4.0, 8.0, 16.0, 64.0)
SECOND_BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class MoveReason(Enum):
    """What a move was for."""

    URGENT = "another request could not grow"
    CONSOLIDATION = "fewer devices, or an order"


class MoveOutcome(Enum):
    """How a move ended."""

    COMMITTED = "the target owns the request"
    ABORTED = "called off, or its request ended before"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveEnd:
    """Moves that are counted together."""

    reason: MoveReason
    mode: Mode
    outcome: MoveOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of values up to each bound, and of those above all of them."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]  # one more than bounds
    total: float = 0.0  # of the values

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Self:
        return cls(bounds=bounds, counts=(0,) * (len(bounds) + 1))

    @property
    def count(self) -> int:
        return sum(self.counts)

    def with_value(self, value: float) -> "Histogram":
        counts = list(self.counts)
        counts[bisect_left(self.bounds, value)] += 1
        return Histogram(
            bounds=self.bounds, counts=tuple(counts), total=self.total + value
        )

    def quantile(self, share: float) -> float:
        """The bound below which `share` of the values lie; inf above all, 0 of none."""
        wanted, seen = share * self.count, 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            if seen >= wanted:
                return bound if self.count else 0.0
        raise ValueError(f"share must be in [0, 1], got {share}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStats:
    """Since the start.

    A gap is the time between the step that brought a moved request's last token of its
    source and the one that brought its first token of its target: 1 step without a
    move. A request that waited for pages before counts from when its row was settled.
    """

    begun: Mapping[Mode, int] = field(default_factory=dict)  # moves
    ended: Mapping[MoveEnd, int] = field(default_factory=dict)  # moves
    carried: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Moves that were committed, by the devices they went from and to."""
    deferred: int = 0  # moves put off to the next epoch
    violations: int = 0  # urgent moves beyond what a link or a target has
    sent_bytes: int = 0  # pages and tokens
    stages: int = 0  # chunks that these were sent in
    activations: int = 0
    activation_s: float = 0.0  # that they took together
    parkings: int = 0
    losses: int = 0  # of devices that failed
    replays: int = 0  # requests started again after the loss of a device
    pauses: int = 0  # a request could not grow at once
    preemptions: int = 0  # of requests that gave up their pages
    gap_steps: Histogram = field(default_factory=lambda: Histogram.empty(STEP_BOUNDS))
    gap_s: Histogram = field(default_factory=lambda: Histogram.empty(SECOND_BOUNDS))

    def count(self, outcome: MoveOutcome) -> int:
        """Moves that ended so, whatever they were for."""
        return sum(n for kind, n in self.ended.items() if kind.outcome is outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What instances that are gone had counted."""

    generated_tokens: int = 0
    prefix_hit_tokens: int = 0
    prefix_query_tokens: int = 0
    preemptions: int = 0
    steps: int = 0

    def plus(self, load: "EngineLoad") -> "Past":
        return Past(
            **{
                each.name: getattr(self, each.name) + getattr(load, each.name)
                for each in fields(Past)
            }
        )


class FleetTally:
    """Counts for one fleet."""

    def __init__(self) -> None:
        self.deferred = self.violations = self.replays = 0
        self.pauses = self.preemptions = 0
        self.activations = 0
        self.activation_s = 0.0
        self.past = Past()
        self._sent_bytes = self._stages = self._parkings = self._losses = 0
        self._begun: Counter[Mode] = Counter()
        self._ended: Counter[MoveEnd] = Counter()
        self._under_way: dict[MoveId, tuple[plan.Move, Mode, Handle]] = {}
        self._carried: Counter[tuple[int, int]] = Counter()
        self._stopped: dict[Handle, tuple[int, float]] = {}  # at which step and time
        self._step, self._now_s = 0, 0.0
        self._gap_steps = Histogram.empty(STEP_BOUNDS)
        self._gap_s = Histogram.empty(SECOND_BOUNDS)

    def stats(self) -> FleetStats:
        return FleetStats(
            begun=dict(self._begun),
            ended=dict(self._ended),
            carried=dict(self._carried),
            deferred=self.deferred,
            violations=self.violations,
            sent_bytes=self._sent_bytes,
            stages=self._stages,
            activations=self.activations,
            activation_s=self.activation_s,
            parkings=self._parkings,
            losses=self._losses,
            replays=self.replays,
            pauses=self.pauses,
            preemptions=self.preemptions,
            gap_steps=self._gap_steps,
            gap_s=self._gap_s,
        )

    @property
    def under_way(self) -> int:
        """Moves that have begun and not ended."""
        return len(self._under_way)

    def begin_move(self, move: plan.Move, *, mode: Mode, handle: "Handle") -> None:
        self._under_way[move.move] = (move, mode, handle)
        self._begun[mode] += 1

    def end_move(self, event: MoveCommitted | MoveAborted) -> plan.Move | None:
        """Counts the end of a move; one that never began is none.

        Returns it if it was aborted.
        """
        if event.move not in self._under_way:
            return None
        is_done = isinstance(event, MoveCommitted)
        outcome = MoveOutcome.COMMITTED if is_done else MoveOutcome.ABORTED
        move, mode, handle = self._under_way.pop(event.move)
        reason = MoveReason.URGENT if move.is_urgent else MoveReason.CONSOLIDATION
        self._ended[MoveEnd(reason=reason, mode=mode, outcome=outcome)] += 1
        if is_done:
            self._carried[move.source, move.target] += 1
            return None
        self.forget(handle)
        return move

    def send(self, nbytes: int) -> None:
        """A chunk of a move leaves its source; one with nothing in it is no stage."""
        self._sent_bytes += nbytes
        self._stages += nbytes > 0

    def close(self, load: "EngineLoad") -> None:
        """A device was parked; `load` is the last one of its instance."""
        self._parkings += 1
        self.past = self.past.plus(load)

    def lose(self, load: "EngineLoad | None") -> None:
        """A device has failed; `load` is the last one of its instance, if any."""
        self._losses += 1
        if load is not None:
            self.past = self.past.plus(load)

    def begin_step(self, now_s: float) -> None:
        self._step += 1
        self._now_s = now_s

    def stop_row(self, handle: "Handle") -> None:
        """A request has had its last token on its source."""
        self._stopped[handle] = (self._step, self._now_s)

    def forget(self, handle: "Handle") -> None:
        """A request goes on where it was, or not at all: there is no gap to see."""
        self._stopped.pop(handle, None)

    def see(self, frame: "StepFrame") -> None:
        """Looks for the first tokens after a move in what a step has brought."""
        if not self._stopped:
            return
        seen = set(frame.handles.tolist())
        for handle, (step, at_s) in list(self._stopped.items()):
            if step < self._step and handle in seen:
                del self._stopped[handle]
                self._gap_steps = self._gap_steps.with_value(self._step - step)
                self._gap_s = self._gap_s.with_value(self._now_s - at_s)

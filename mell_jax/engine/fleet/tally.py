"""The tally counts what a fleet does, as it happens.

The tally counts; `FleetStats` is a copy of it that does not change. Gaps are kept in
histograms of few buckets, so that nothing here grows.
"""

from collections import Counter
from dataclasses import dataclass, fields
from typing import NamedTuple, final

from mell_jax.engine.fleet_view import (
    GAP_BOUNDS_S,
    STEP_BOUNDS,
    FleetStats,
    MoveEnd,
    MoveOutcome,
    MoveReason,
)
from mell_jax.engine.frames import EngineLoad, FinishReason, Handle, StepFrame
from mell_jax.engine.histogram import HistogramRecorder
from mell_jax.scheduler.ids import DeviceGroupId, MoveId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.events import MoveAborted, MoveCommitted
from mell_jax.scheduler.transfer import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The past is what instances that are gone had counted."""

    generated_tokens: int = 0
    prefix_hit_tokens: int = 0
    prefix_query_tokens: int = 0
    preemptions: int = 0
    steps: int = 0

    def plus(self, load: EngineLoad) -> "Past":
        return Past(
            **{
                each.name: getattr(self, each.name) + getattr(load, each.name)
                for each in fields(Past)
            }
        )


class _Moment(NamedTuple):
    """A request had its last token on its source."""

    round_: int
    steps: int  # of the fastest instance
    now_s: float


@final
class FleetTally:
    """The tally counts for one fleet."""

    def __init__(self) -> None:
        self.deferred = self.violations = self.replays = 0
        self.pauses = self.preemptions = self.broken = 0
        self.activations = 0
        self.activation_s = 0.0
        self.past = Past()
        self._sent_bytes = self._stages = self._parkings = self._losses = 0
        self._begun: Counter[Mode] = Counter()
        self._ended: Counter[MoveEnd] = Counter()
        self._under_way: dict[MoveId, tuple[plan.Move, Mode, Handle]] = {}
        self._carried: Counter[tuple[int, int]] = Counter()
        self._stopped: dict[Handle, _Moment] = {}
        self.steps = 0  # as many as the fastest instance made
        self._round, self._now_s = 0, 0.0
        self._launched: set[DeviceGroupId] = set()  # in this step
        self._gap_steps = HistogramRecorder(STEP_BOUNDS)
        self._gap_s = HistogramRecorder(GAP_BOUNDS_S)

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
            broken=self.broken,
            gap_steps=self._gap_steps.frozen(),
            gap_s=self._gap_s.frozen(),
        )

    @property
    def under_way(self) -> int:
        """Returns how many moves have begun and not ended."""
        return len(self._under_way)

    def begin_move(self, move: plan.Move, *, mode: Mode, handle: Handle) -> None:
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
        """Counts a chunk that leaves its source; one with nothing in it is no stage."""
        self._sent_bytes += nbytes
        self._stages += nbytes > 0

    def close(self, load: EngineLoad) -> None:
        """Counts a device that was parked; `load` is the last one of its instance."""
        self._parkings += 1
        self.past = self.past.plus(load)

    def lose(self, load: EngineLoad | None) -> None:
        """Counts a device that failed; `load` is its instance's last one, if any."""
        self._losses += 1
        if load is not None:
            self.past = self.past.plus(load)

    def begin_round(self, now_s: float) -> None:
        self._round += 1
        self._now_s = now_s

    def launch(self, device: DeviceGroupId) -> None:
        """Counts a step of an instance; gaps are as many as the fastest one makes."""
        if device in self._launched:
            self.steps += 1
            self._launched.clear()
        self._launched.add(device)

    def stop_row(self, handle: Handle) -> None:
        """Notes that a request has had its last token on its source."""
        self._stopped[handle] = _Moment(self._round, self.steps, self._now_s)

    def forget(self, handle: Handle) -> None:
        """Forgets a request that goes on where it was, or not at all: it has no gap."""
        self._stopped.pop(handle, None)

    def see_ends(self, frame: StepFrame) -> None:
        """Counts streams that the engine ended; a request at fault names its field."""
        self.broken += sum(
            end.reason is FinishReason.ERROR and not end.field for end in frame.finished
        )

    def see(self, frame: StepFrame) -> None:
        """Looks for the first tokens after a move in what a step has brought."""
        if not self._stopped:
            return
        seen = set(frame.handles.tolist())
        for handle, last in list(self._stopped.items()):
            if last.round_ < self._round and handle in seen:
                del self._stopped[handle]
                self._gap_steps.add(max(1, self.steps - last.steps))
                self._gap_s.add(self._now_s - last.now_s)

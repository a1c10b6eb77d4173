"""Ticks are the times at which tokens of a few streams came.

    frames -> see -> a lane of times per followed stream -> views, which overlap
                '--> gaps between them, of streams that moved and of those that did not

A stream is followed from its first token while there are lanes, and one that moves gets
the lane of one that does not, so that its gap at the move is seen. Nothing here grows
with the requests that are open.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import final

from mell_jax.engine.frames import Handle, StepFrame
from mell_jax.engine.histogram import HistogramRecorder
from mell_jax.engine.stream_view import (
    TICK_GAP_BOUNDS_S,
    GapsView,
    MoveMark,
    StreamView,
)
from mell_jax.scheduler.ids import RequestId

LANES = 48
MOVED_LANES = 24  # that streams may take from others by moving
KEPT_S = 2.0  # ticks are in so many seconds of views
MOST_TICKS = 400  # of a stream in one view
MOST_MARKS = 8


class _Lane:
    """A lane keeps one stream's latest ticks."""

    __slots__ = (
        "count",
        "device",
        "ended_s",
        "has_just_moved",
        "has_moved",
        "is_mover",
        "last_s",
        "marks",
        "request",
        "ticks",
    )

    def __init__(self, request: RequestId, *, device: int, tokens: int) -> None:
        self.request = request
        self.device = device
        self.count = tokens  # output tokens so far
        self.ticks: deque[float] = deque(maxlen=MOST_TICKS)
        self.marks: deque[MoveMark] = deque(maxlen=MOST_MARKS)
        self.is_mover = False  # has begun to move, at least
        self.has_moved = False
        self.has_just_moved = False  # and has no token since
        self.last_s: float | None = None
        self.ended_s: float | None = None

    def view(self, *, since_s: float) -> StreamView:
        while self.ticks and self.ticks[0] < since_s:
            self.ticks.popleft()
        return StreamView(
            request=self.request,
            device=self.device,
            first=self.count - len(self.ticks),
            ticks_s=tuple(self.ticks),
            moves=tuple(self.marks),
            is_over=self.ended_s is not None,
        )


@final
class TickRecorder:
    """The recorder follows streams of one fleet, on its thread.

    Args:
      clock: seconds, never backwards.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s = clock()
        self._lanes: dict[Handle, _Lane] = {}  # of open streams
        self._over: deque[_Lane] = deque(maxlen=LANES)
        self._moved = HistogramRecorder(TICK_GAP_BOUNDS_S)
        self._after = HistogramRecorder(TICK_GAP_BOUNDS_S)
        self._unmoved = HistogramRecorder(TICK_GAP_BOUNDS_S)

    @property
    def now_s(self) -> float:
        """Returns the seconds since the start."""
        return self._clock() - self._start_s

    @property
    def free_lanes(self) -> int:
        return LANES - len(self._lanes)

    def follows(self, handle: Handle) -> bool:
        return handle in self._lanes

    def follow(
        self, request: RequestId, *, handle: Handle, device: int, tokens: int
    ) -> None:
        """Follows a stream, if a lane is free; one that is followed starts again.

        Args:
          request: its number.
          handle: as frames name it.
          device: where it starts.
          tokens: output tokens that it has.
        """
        if handle in self._lanes:
            self._lanes[handle].device = device
        elif self.free_lanes > 0:
            self._lanes[handle] = _Lane(request, device=device, tokens=tokens)

    def begin_move(
        self, request: RequestId, *, handle: Handle, device: int, tokens: int
    ) -> None:
        """Follows a stream from now on that begins to move; see `follow`."""
        if handle not in self._lanes and self.free_lanes == 0:
            self._give_up_one()
        self.follow(request, handle=handle, device=device, tokens=tokens)
        if handle in self._lanes:
            self._lanes[handle].is_mover = True

    def commit_move(self, handle: Handle, *, source: int, target: int) -> None:
        """Marks a stream: its next token comes from the move's target."""
        lane = self._lanes.get(handle)
        if lane is not None:
            mark = MoveMark(at_s=self.now_s, source=source, target=target)
            lane.marks.append(mark)
            lane.device = target
            lane.has_moved = lane.has_just_moved = True

    def see(self, frame: StepFrame) -> None:
        """Takes down the tokens of a frame that has just come."""
        if not self._lanes:
            return
        now_s = self.now_s
        for handle in frame.handles.tolist():
            lane = self._lanes.get(handle)
            if lane is None:
                continue
            lane.ticks.append(now_s)
            lane.count += 1
            if lane.last_s is not None and lane.last_s < now_s:
                self._count(lane, now_s - lane.last_s)
            lane.last_s, lane.has_just_moved = now_s, False

    def end(self, handle: Handle) -> None:
        """Keeps a stream that is over for as long as its ticks are shown."""
        lane = self._lanes.pop(handle, None)
        if lane is not None:
            lane.ended_s = self.now_s
            self._over.append(lane)

    def views(self) -> tuple[StreamView, ...]:
        """Returns what is known of the streams that are or were just followed."""
        since_s = self.now_s - KEPT_S
        while self._over and (self._over[0].ended_s or 0.0) < since_s:
            self._over.popleft()
        lanes = (*self._over, *self._lanes.values())
        return tuple(lane.view(since_s=since_s) for lane in lanes)

    def gaps(self) -> GapsView:
        """Returns the gaps since the start."""
        return GapsView(
            moved=self._moved.frozen(),
            after=self._after.frozen(),
            unmoved=self._unmoved.frozen(),
        )

    def _count(self, lane: _Lane, gap_s: float) -> None:
        (self._moved if lane.has_moved else self._unmoved).add(gap_s)
        if lane.has_just_moved:
            self._after.add(gap_s)

    def _give_up_one(self) -> None:
        """Frees the oldest lane of a stream that stays, if not too many move."""
        stay = [handle for handle, lane in self._lanes.items() if not lane.is_mover]
        if len(stay) > LANES - MOVED_LANES:
            del self._lanes[stay[0]]

"""A front end sees when the tokens of its streams come, and on which hosts.

openings -> where each copy is      rows -> ticks, gaps at moves

In one process the conductor tells the same (`engine/fleet/conductor.py`); here times
are those at which tokens have come to the front end.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from mell_jax.engine.fleet.ticks import TickRecorder
from mell_jax.engine.fleet_view import GAP_BOUNDS_S
from mell_jax.engine.frames import FinishReason, Handle, StepFrame
from mell_jax.engine.histogram import HistogramRecorder
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import NO_COPY, CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration import messages

_MOST_COPIES = 8  # of a request whose places are remembered


@dataclass(slots=True, kw_only=True)
class _Followed:
    handle: Handle
    places: dict[CopyId, DeviceGroupId] = field(default_factory=dict)
    moves: set[CopyId] = field(default_factory=set)  # copies that take over from one
    copy_id: CopyId = NO_COPY  # whose tokens came last
    count: int = 0  # tokens of the answer
    last_s: float = 0.0  # when the latest came


@final
class Follower:
    """The follower has the open requests of one front end.

    Args:
      clock: seconds, never backwards.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self.ticks = TickRecorder(clock=clock)
        self.gap_s = HistogramRecorder(GAP_BOUNDS_S)
        self.broken = 0  # streams that the fleet had to end
        self._clock = clock
        self._followed: dict[RequestId, _Followed] = {}

    def begin(self, request: RequestId, *, handle: Handle) -> None:
        """A client has asked."""
        self._followed[request] = _Followed(handle=handle)

    def tokens(self, request: RequestId) -> int:
        """Returns the tokens of an answer that have come; 0 of others' requests."""
        found = self._followed.get(request)
        return found.count if found is not None else 0

    def handle(self, request: RequestId) -> Handle | None:
        """Returns how a client calls a request; None for others' requests."""
        found = self._followed.get(request)
        return found.handle if found is not None else None

    def open(self, opening: words.Opening) -> None:
        """A copy is about to begin, or to come, on a device group."""
        message, device = opening.message, opening.device
        found = self._followed.get(message.request)
        if found is None:
            return
        found.places[message.copy_id] = device
        while len(found.places) > _MOST_COPIES:
            del found.places[next(iter(found.places))]
        match message:
            case messages.Start():
                self._follow(found, message.request, device)
            case messages.Reserve():
                found.moves.add(message.copy_id)
                self.ticks.begin_move(
                    message.request,
                    handle=found.handle,
                    device=found.places.get(found.copy_id, device),
                    tokens=found.count,
                )

    def take(self, row: words.Row) -> None:
        """Tokens of a copy have come."""
        found = self._followed[row.request]
        if row.tokens and row.copy_id != found.copy_id:
            self._change(found, row)
        if row.tokens:
            found.count += len(row.tokens)
            found.last_s = self._clock()

    def see(self, frame: StepFrame) -> None:
        """A frame is passed on to clients."""
        self.ticks.see(frame)
        self.broken += sum(
            end.reason is FinishReason.ERROR and not end.field for end in frame.finished
        )

    def end(self, request: RequestId) -> None:
        """A stream is over."""
        found = self._followed.pop(request, None)
        if found is not None:
            self.ticks.end(found.handle)

    def _follow(
        self, found: _Followed, request: RequestId, device: DeviceGroupId
    ) -> None:
        self.ticks.follow(
            request, handle=found.handle, device=device, tokens=found.count
        )

    def _change(self, found: _Followed, row: words.Row) -> None:
        """Tokens come from another copy than before: a move, or it began again."""
        source = found.places.get(found.copy_id)
        target = found.places.get(row.copy_id)
        has_moved = row.copy_id in found.moves
        found.copy_id = row.copy_id
        found.moves = {copy for copy in found.moves if copy > row.copy_id}
        if target is None:
            return
        if not has_moved or source is None:
            self._follow(found, row.request, target)
            return
        self.gap_s.add(self._clock() - found.last_s)
        self.ticks.commit_move(found.handle, source=source, target=target)

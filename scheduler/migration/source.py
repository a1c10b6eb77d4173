"""The source end of a move copies while the row decodes, stops it, and waits.

    COPYING --few left--> STOPPING --row out of the batch--> STOPPED
       |                     |                                  |
       '---- too many stages, row lost ----> GIVEN_UP <---------'

Only the controller ends it, by `Resume` or `Release`: there is no way from STOPPED back
to decoding. One chunk is in flight at a time. Positions are in tokens.

A stage brings the target everything up to some position, in one chunk or in pieces, of
which each is sent when the one before has come: to read many pages at once would hold
up the steps of all rows. One that has come within a step of the row is followed by one
of twice its size. An urgent move, which others wait for, has no pieces, nor has one of
tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.effects import EndpointEffect, Send
from mell_jax.scheduler.transfer import Mode

MOST_TIMES = 16
"""Pieces grow to so many times the size that they begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagingLimits:
    """The limits bound how long a source copies beside its decoding."""

    page_tokens: int
    max_stages: int = 3  # then a move gives up, or stops the row if it is urgent
    tail_pages: int = 2  # at most so much is copied while the row stands still
    piece_pages: int | None = None  # that a stage begins with; None: all at once

    def __post_init__(self) -> None:
        for name in ("page_tokens", "max_stages", "tail_pages", "piece_pages"):
            value = getattr(self, name)
            if not (value is None or value >= 1):
                raise ValueError(f"{name} must be >= 1, got {value}")


class SourcePhase(Enum):
    """The source end of a move is in one of these phases."""

    COPYING = "the row decodes, chunks are sent"
    STOPPING = "the row is leaving the batch"
    STOPPED = "the row stands still until the controller has decided"
    GIVEN_UP = "nothing more is sent"


class Outgoing:
    """The source end holds what it knows of one move."""

    def __init__(
        self, begin: messages.Begin, *, limits: StagingLimits, device: DeviceGroupId
    ) -> None:
        self.begin = begin
        self.phase = SourcePhase.COPYING
        self.stages = 0
        self.has_stopped_row = False
        self._limits = limits
        self._device = device
        self._sent = begin.first  # the target has everything before
        self._goal = begin.first  # of the latest stage
        has_pieces = begin.mode is Mode.KV and not begin.is_urgent
        self._piece_pages = limits.piece_pages if has_pieces else None
        self._computed = 0  # positions
        self._steps = 0  # of the row, since the latest piece was sent
        self._chunk: messages.Chunk | None = None  # in flight
        self._stopped: messages.Stopped | None = None

    def computed(self, event: events.Computed) -> Sequence[EndpointEffect]:
        """Goes on, if the last chunk has arrived."""
        self._steps += event.computed > self._computed
        self._computed = event.computed
        if self.phase is not SourcePhase.COPYING or self._chunk is not None:
            return ()
        if self._sent < self._goal:
            self._fit_pieces()
            return self._send_piece()
        left = event.computed - self._sent
        size = self._limits.page_tokens
        if left <= self._limits.tail_pages * size:
            return self._stop()
        if self.stages == self._limits.max_stages:
            return self._stop() if self.begin.is_urgent else self.give_up()
        self.stages += 1
        self._goal = event.computed // size * size
        return self._send_piece()

    def received(self, message: messages.Received) -> Sequence[EndpointEffect]:
        """Notes what arrived; the next `Computed` decides how to go on."""
        chunk = self._chunk
        if chunk is not None and message.end >= chunk.end and not chunk.is_last:
            self._sent = message.end
            self._chunk = None
        return ()

    def row_stopped(self, event: events.RowStopped) -> Sequence[EndpointEffect]:
        """Tells the controller the last tokens, and sends the rest to the target."""
        if self.phase is not SourcePhase.STOPPING:
            return ()
        self.phase = SourcePhase.STOPPED
        self._stopped = messages.Stopped(
            request=event.request,
            copy_id=event.copy_id,
            to_copy_id=self.begin.to_copy_id,
            since=self.begin.known,
            tail=event.tail,
        )
        end = max(event.computed, self._sent)  # the target may have had more cached
        return (self._tell(self._stopped), *self._send_chunk(end, is_last=True))

    def give_up(self) -> Sequence[EndpointEffect]:
        """Sends nothing more; the controller is to call the move off."""
        self.phase = SourcePhase.GIVEN_UP
        self._chunk = None
        return (self._tell(self._gave_up()),)

    def resend(self) -> Sequence[EndpointEffect]:
        """Says again what has not been answered."""
        said: list[EndpointEffect] = []
        if self.phase is SourcePhase.STOPPED:
            assert self._stopped is not None
            said.append(self._tell(self._stopped))
        elif self.phase is SourcePhase.GIVEN_UP:
            said.append(self._tell(self._gave_up()))
        if self._chunk is not None:
            said.append(Send(to=self.begin.target, message=self._chunk))
        return said

    def _stop(self) -> Sequence[EndpointEffect]:
        self.phase = SourcePhase.STOPPING
        self.has_stopped_row = True
        begin = self.begin
        return (
            effects.StopRow(
                request=begin.request, copy_id=begin.copy_id, since=begin.known
            ),
        )

    def _fit_pieces(self) -> None:
        """Fits pieces to how many steps the latest one took."""
        first, now = self._limits.piece_pages, self._piece_pages
        assert first is not None and now is not None, "one without has one chunk"
        if self._steps <= 1:
            self._piece_pages = min(2 * now, MOST_TIMES * first)

    def _send_piece(self) -> Sequence[EndpointEffect]:
        """Sends what is left of a stage, or a piece of it."""
        self._steps = 0
        end = self._goal
        if self._piece_pages is not None:
            size = self._limits.page_tokens
            end = min(end, self._sent // size * size + self._piece_pages * size)
        return self._send_chunk(end, is_last=False)

    def _send_chunk(self, end: int, *, is_last: bool) -> Sequence[EndpointEffect]:
        begin = self.begin
        self._chunk = messages.Chunk(
            request=begin.request,
            copy_id=begin.to_copy_id,
            from_copy_id=begin.copy_id,
            source=self._device,
            mode=begin.mode,
            first=self._sent,
            end=end,
            is_last=is_last,
            ends_stage=is_last or end == self._goal,
        )
        return (Send(to=begin.target, message=self._chunk),)

    def _gave_up(self) -> messages.GaveUp:
        begin = self.begin
        return messages.GaveUp(
            request=begin.request, copy_id=begin.copy_id, to_copy_id=begin.to_copy_id
        )

    def _tell(self, message: messages.ToController) -> Send:
        return Send(to=messages.CONTROLLER, message=message)

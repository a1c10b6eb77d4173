"""The destination end of a move takes pages, then what is sent, then waits.

    RESERVING --took--> RECEIVING --last chunk written--> READY
        |                   |
        '---- no room ------'--> FAILED

It ends by the controller's `Commit` or `Release` alone. A chunk that is late, doubled
or of another copy is never written: another request may have the pages by then.
"""

from collections.abc import Sequence
from enum import Enum

from mell_jax.scheduler.ids import CopyId, RequestId
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.effects import EndpointEffect, Send


class DestinationPhase(Enum):
    """The destination end of a move is in one of these phases."""

    RESERVING = "pages are being taken"
    RECEIVING = "chunks are written as they come"
    READY = "everything is there"
    FAILED = "it cannot be done"


class Incoming:
    """The destination end holds what it knows of one move."""

    def __init__(self, reserve: messages.Reserve) -> None:
        self.reserve = reserve
        self.phase = DestinationPhase.RESERVING
        self.received = 0  # positions that are there
        self._cached = 0
        self._writing: messages.Chunk | None = None

    @property
    def request(self) -> RequestId:
        """Returns the request that is to come."""
        return self.reserve.request

    @property
    def copy_id(self) -> CopyId:
        """Returns the name of the copy that the move makes."""
        return self.reserve.copy_id

    def begin(self) -> Sequence[EndpointEffect]:
        """Asks for the pages."""
        reserve = self.reserve
        return (
            effects.TakePages(
                request=reserve.request,
                copy_id=reserve.copy_id,
                pages=reserve.pages,
                known=reserve.known,
            ),
        )

    def took(self, event: events.Took) -> Sequence[EndpointEffect]:
        """Says that the pages are reserved, and how much of them is cached."""
        if self.phase is not DestinationPhase.RESERVING:
            return ()
        self.phase = DestinationPhase.RECEIVING
        self.received = self._cached = event.cached
        return self.answer()

    def failed(self) -> Sequence[EndpointEffect]:
        """Refuses the move, from now on."""
        self.phase = DestinationPhase.FAILED
        return self.answer()

    def chunk(self, message: messages.Chunk) -> Sequence[EndpointEffect]:
        """Writes a chunk that comes next; one that is there is acknowledged again."""
        is_there = message.end <= self.received and not message.is_last
        if is_there or self.phase is DestinationPhase.READY:
            return (self._received(message),)
        if self.phase is not DestinationPhase.RECEIVING or self._writing is not None:
            return ()
        if message.first != self.received:
            return ()  # an old one, cut differently
        self._writing = message
        return (
            effects.WriteChunk(
                request=message.request,
                copy_id=message.copy_id,
                mode=message.mode,
                first=message.first,
                end=message.end,
            ),
        )

    def written(self, event: events.Written) -> Sequence[EndpointEffect]:
        """Acknowledges the chunk that was being written."""
        message = self._writing
        if self.phase is not DestinationPhase.RECEIVING or message is None:
            return ()
        assert event.end == message.end, f"{event} answers {message}"
        self._writing = None
        self.received = message.end
        if not message.is_last:
            return (self._received(message),)
        self.phase = DestinationPhase.READY
        return (self._received(message), *self.answer())

    def answer(self) -> Sequence[EndpointEffect]:
        """Says what the controller should know; again whenever it asks."""
        request, copy_id = self.reserve.request, self.reserve.copy_id
        match self.phase:
            case DestinationPhase.RESERVING:
                return ()
            case DestinationPhase.RECEIVING:
                told: messages.ToController = messages.Reserved(
                    request=request, copy_id=copy_id, cached=self._cached
                )
            case DestinationPhase.READY:
                told = messages.Ready(request=request, copy_id=copy_id)
            case DestinationPhase.FAILED:
                told = messages.Refused(request=request, copy_id=copy_id)
        return (Send(to=messages.CONTROLLER, message=told),)

    def _received(self, message: messages.Chunk) -> Send:
        return Send(
            to=message.source,
            message=messages.Received(
                request=message.request,
                copy_id=message.from_copy_id,
                to_copy_id=message.copy_id,
                end=self.received,
            ),
        )

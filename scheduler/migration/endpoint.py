"""An endpoint is one device's end of the protocol and holds its copies.

    Start ----> Running <---- Commit ---- Incoming <---- Reserve
                   |                          |
                   |  Begin, Resume: has an   |
                   |  Outgoing for a while    |
                   '-------> Release <--------'

It owns which copies exist, not their pages: those are the driver's, who carries the
effects out. A copy that was released cannot come back by a late `Start` or `Reserve`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mell_jax.scheduler.ids import NO_COPY, CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.destination import DestinationPhase, Incoming
from mell_jax.scheduler.migration.effects import EndpointEffect, Send
from mell_jax.scheduler.migration.source import Outgoing, StagingLimits

Effects = Sequence[EndpointEffect]


class Running:
    """A running copy owns its request, or did until its row stopped."""

    __slots__ = ("copy_id", "outgoing", "request", "settled")

    def __init__(self, request: RequestId, copy_id: CopyId) -> None:
        self.request = request
        self.copy_id = copy_id
        self.outgoing: Outgoing | None = None
        self.settled = NO_COPY  # moves up to this one are over


class Endpoint:
    """An endpoint holds the copies of one device.

    Args:
      device: the device that it stands for.
      limits: how moves are staged.
      horizon: the controller's `next_copy_id` when the device was added: whatever was
        sent to the device before is not for this endpoint.
    """

    def __init__(
        self, device: DeviceGroupId, *, limits: StagingLimits, horizon: CopyId
    ) -> None:
        self.device = device
        self._limits = limits
        self._horizon = horizon
        self._released: set[CopyId] = set()  # not below the horizon
        self._copies: dict[CopyId, Running | Incoming] = {}
        self._handlers: dict[type, Callable[[Any], Effects]] = {
            messages.Start: self._start,
            messages.Reserve: self._reserve,
            messages.Begin: self._begin,
            messages.Resume: self._resume,
            messages.Commit: self._commit,
            messages.Release: self._release,
            messages.Chunk: self._chunk,
            messages.Received: self._received,
            events.Keep: self._keep,
            events.Took: self._took,
            events.Failed: self._failed,
            events.Written: self._written,
            events.Computed: self._computed,
            events.RowStopped: self._row_stopped,
            events.RowLost: self._row_lost,
            events.Resend: self._resend,
        }

    def step(self, event: messages.ToEndpoint | events.EndpointEvent) -> Effects:
        """Takes one message or event and answers with what to do, in order."""
        return self._handlers[type(event)](event)

    @property
    def copies(self) -> list[CopyId]:
        """Returns the names of the copies held."""
        return list(self._copies)

    def is_whole(self, copy_id: CopyId) -> bool:
        """Tells whether a copy runs, or has all that a commit needs."""
        copy = self._copies.get(copy_id)
        if isinstance(copy, Incoming):
            return copy.phase is DestinationPhase.READY
        return copy is not None

    def is_coming(self, copy_id: CopyId) -> bool:
        """Tells whether a copy is on its way here, and does not run yet."""
        return isinstance(self._copies.get(copy_id), Incoming)

    def is_moving(self, copy_id: CopyId) -> bool:
        """Tells whether the source end of a move needs to hear of this row."""
        return self._moving(copy_id) is not None

    # Coming and going.

    def _start(self, message: messages.Start) -> Effects:
        copy_id = message.copy_id
        said = self._tell(messages.Started(request=message.request, copy_id=copy_id))
        if copy_id in self._copies:
            return (said,)
        if not self._is_new(copy_id, message.horizon):
            return ()
        self._copies[copy_id] = Running(message.request, copy_id)
        row = effects.StartRow(
            request=message.request,
            copy_id=copy_id,
            computed=0,
            since=message.known,
            tail=(),
        )
        return (row, said)

    def _reserve(self, message: messages.Reserve) -> Effects:
        copy = self._copies.get(message.copy_id)
        if isinstance(copy, Incoming):
            return copy.answer()
        if copy is not None or not self._is_new(message.copy_id, message.horizon):
            return ()
        copy = self._copies[message.copy_id] = Incoming(message)
        return copy.begin()

    def _commit(self, message: messages.Commit) -> Effects:
        copy_id = message.copy_id
        copy = self._copies.get(copy_id)
        if copy is None:
            return ()  # released since
        said = self._tell(messages.Started(request=message.request, copy_id=copy_id))
        if isinstance(copy, Running):
            return (said,)
        assert copy.phase is DestinationPhase.READY, (
            f"{message} to a copy that is {copy.phase}"
        )
        self._copies[copy_id] = Running(message.request, copy_id)
        row = effects.StartRow(
            request=message.request,
            copy_id=copy_id,
            computed=copy.received,
            since=message.since,
            tail=message.tail,
        )
        return (row, said)

    def _release(self, message: messages.Release) -> Effects:
        request, copy_id = message.request, message.copy_id
        self._learn(message.horizon)
        if copy_id >= self._horizon:
            self._released.add(copy_id)
        said = self._tell(messages.Released(request=request, copy_id=copy_id))
        if self._copies.pop(copy_id, None) is None:
            return (said,)
        return (effects.Free(request=request, copy_id=copy_id), said)

    def _keep(self, event: events.Keep) -> Effects:
        self._learn(event.horizon)
        said: list[EndpointEffect] = []
        for copy_id, copy in list(self._copies.items()):
            if copy_id >= event.horizon:
                continue  # the new controller's own, by a quicker way
            if copy_id in event.copies:
                said += self._settle(copy)
                continue
            del self._copies[copy_id]
            said.append(effects.Free(request=copy.request, copy_id=copy_id))
        return said

    def _settle(self, copy: Running | Incoming) -> Effects:
        """Ends the source end of a move that nobody knows of any more."""
        if not isinstance(copy, Running) or copy.outgoing is None:
            return ()
        outgoing, copy.outgoing = copy.outgoing, None
        copy.settled = outgoing.begin.to_copy_id
        if not outgoing.has_stopped_row:
            return ()
        return (effects.ResumeRow(request=copy.request, copy_id=copy.copy_id),)

    def _is_new(self, copy_id: CopyId, horizon: CopyId) -> bool:
        """Tells whether an opening comes for the first time: none is answered twice."""
        is_new = copy_id >= self._horizon and copy_id not in self._released
        self._learn(horizon)
        return is_new

    def _learn(self, horizon: CopyId) -> None:
        if horizon > self._horizon:
            self._horizon = horizon
            self._released = {e for e in self._released if e >= horizon}

    # Source end.

    def _begin(self, message: messages.Begin) -> Effects:
        copy = self._copies.get(message.copy_id)
        if not isinstance(copy, Running) or message.to_copy_id <= copy.settled:
            return ()
        if copy.outgoing is not None:
            assert copy.outgoing.begin.to_copy_id == message.to_copy_id, (
                "two moves at once"
            )
            return ()
        copy.outgoing = Outgoing(message, limits=self._limits, device=self.device)
        return (effects.WatchRow(request=message.request, copy_id=message.copy_id),)

    def _resume(self, message: messages.Resume) -> Effects:
        said = self._tell(
            messages.Resumed(
                request=message.request,
                copy_id=message.copy_id,
                to_copy_id=message.to_copy_id,
            )
        )
        copy = self._copies.get(message.copy_id)
        if not isinstance(copy, Running) or message.to_copy_id <= copy.settled:
            return (said,)
        copy.settled = message.to_copy_id
        outgoing, copy.outgoing = copy.outgoing, None
        if outgoing is None or not outgoing.has_stopped_row:
            return (said,)
        row = effects.ResumeRow(request=message.request, copy_id=message.copy_id)
        return (row, said)

    def _received(self, message: messages.Received) -> Effects:
        outgoing = self._moving(message.copy_id)
        if outgoing is None or outgoing.begin.to_copy_id != message.to_copy_id:
            return ()
        return outgoing.received(message)

    def _computed(self, event: events.Computed) -> Effects:
        outgoing = self._moving(event.copy_id)
        return outgoing.computed(event) if outgoing is not None else ()

    def _row_stopped(self, event: events.RowStopped) -> Effects:
        outgoing = self._moving(event.copy_id)
        return outgoing.row_stopped(event) if outgoing is not None else ()

    def _row_lost(self, event: events.RowLost) -> Effects:
        outgoing = self._moving(event.copy_id)
        return outgoing.give_up() if outgoing is not None else ()

    # Destination end.

    def _took(self, event: events.Took) -> Effects:
        copy = self._copies.get(event.copy_id)
        return copy.took(event) if isinstance(copy, Incoming) else ()

    def _failed(self, event: events.Failed) -> Effects:
        copy = self._copies.get(event.copy_id)
        return copy.failed() if isinstance(copy, Incoming) else ()

    def _chunk(self, message: messages.Chunk) -> Effects:
        copy = self._copies.get(message.copy_id)
        return copy.chunk(message) if isinstance(copy, Incoming) else ()

    def _written(self, event: events.Written) -> Effects:
        copy = self._copies.get(event.copy_id)
        return copy.written(event) if isinstance(copy, Incoming) else ()

    # Both.

    def _resend(self, event: events.Resend) -> Effects:
        said: list[EndpointEffect] = []
        for copy in self._copies.values():
            if isinstance(copy, Incoming):
                said += copy.answer()
            elif copy.outgoing is not None:
                said += copy.outgoing.resend()
        return said

    def _moving(self, copy_id: CopyId) -> Outgoing | None:
        copy = self._copies.get(copy_id)
        return copy.outgoing if isinstance(copy, Running) else None

    def _tell(self, message: messages.ToController) -> Send:
        return Send(to=messages.CONTROLLER, message=message)

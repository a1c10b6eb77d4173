"""A fleet's instance carries out what the migration protocol asks of it.

    message -> endpoint -> effects -> pages taken, written, rows stopped and started
                   ^                                   |
                   '------- Took, Written, RowStopped -'

The endpoint is the pure state machine; the instance has the batch and the pages. A
copy's id is its serial there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from mell_jax.engine.fleet import page_transfer
from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.fleet.request_state import RequestState
from mell_jax.engine.fleet.transport import Transport
from mell_jax.engine.instance import Instance
from mell_jax.scheduler.ids import (
    CopyId,
    DeviceGroupId,
    ModelId,
    RequestId,
    Serial,
    Tokens,
)
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.endpoint import Endpoint
from mell_jax.scheduler.plan import NOWHERE
from mell_jax.scheduler.transfer import Mode
from mell_jax.worker.group import DeviceGroup

Payload = PageTransfer | Tokens | None


class FleetContext(Protocol):
    """The context is what an instance needs of the fleet."""

    def state(self, request: RequestId) -> RequestState | None: ...

    def group_of(self, device: DeviceGroupId) -> DeviceGroup | None: ...

    def is_elsewhere(self, device: DeviceGroupId) -> bool:
        """Returns whether a device is in another process, to be sent bytes."""

    def freed(self, copy_id: CopyId) -> None:
        """Hears that a copy holds nothing any more."""

    def post(
        self, to: DeviceGroupId, message: messages.Message, payload: Payload
    ) -> None: ...


MOST_LOOKS = 100
"""A commit is expected within so many looks at what a host is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """These pages are on their way to a reservation."""

    request: RequestId
    copy_id: CopyId
    end: int  # positions
    transfer: PageTransfer
    waited: int = 0  # epochs


class FleetInstance:
    """A fleet's instance serves, and has its end of the protocol."""

    def __init__(
        self,
        device: DeviceGroupId,
        instance: Instance,
        *,
        model: ModelId,
        endpoint: Endpoint,
        transport: Transport,
        context: FleetContext,
    ) -> None:
        self.device = device
        self.inner = instance
        self.model = model
        self.requests: dict[Serial, RequestId] = {}  # of every copy held
        self._endpoint = endpoint
        self._transport = transport
        self._context = context
        self._is_open = False
        self._arrivals: list[_Arrival] = []
        self._prefills: dict[CopyId, effects.WriteChunk] = {}
        self._stopping: dict[CopyId, effects.StopRow] = {}
        self._watched: dict[CopyId, RequestId] = {}
        self._stage_ends: dict[CopyId, int] = {}  # positions, of copies that come
        self._coming: dict[CopyId, int] = {}  # soon to be committed, and looks at it
        self._carry: dict[type, Callable[[Any], None]] = {
            effects.Send: self._send,
            effects.TakePages: self._take_pages,
            effects.WatchRow: self._watch_row,
            effects.StopRow: self._stop_row,
            effects.ResumeRow: self._resume_row,
            effects.StartRow: self._start_row,
            effects.Free: self._free,
        }

    def deliver(self, message: messages.ToEndpoint, payload: Payload) -> None:
        """Takes a message for this device, with the payload that came beside it."""
        if isinstance(message, messages.Chunk):
            self._see_stage(message)
        self._tell(message, payload=payload)

    def hear(self, message: messages.ToEndpoint | events.Keep) -> None:
        """Takes a message for this device that has no payload."""
        self._tell(message)

    def has_copy(self, copy_id: CopyId) -> bool:
        """Returns whether a copy is held here."""
        return copy_id in self._endpoint.copies

    @property
    def whole_copies(self) -> list[CopyId]:
        """Returns the copies that run, or have all that a commit needs."""
        return [c for c in self._endpoint.copies if self._endpoint.is_whole(c)]

    def look_around(self) -> None:
        """Tells the protocol, after a step, what has come about since."""
        for serial in self.inner.ended:
            copy_id = CopyId(serial)
            request = self.requests.pop(serial)
            self._stopping.pop(copy_id, None)
            self._watched.pop(copy_id, None)
            self._tell(events.RowLost(request=request, copy_id=copy_id))
        for arrival in [a for a in self._arrivals if a.transfer.is_ready]:
            self._arrivals.remove(arrival)
            self._unpack(arrival)
        for copy_id, chunk in list(self._prefills.items()):
            if self.inner.sequences.computed(Serial(copy_id)) >= chunk.end:
                del self._prefills[copy_id]
                self._tell_written(chunk.request, copy_id, chunk.end)
        for stop in list(self._stopping.values()):
            self._see_stopped(stop)
        for copy_id, request in list(self._watched.items()):
            self._see_computed(request, copy_id)

    def overdue(self, *, epochs: int) -> list[RequestId]:
        """Returns requests whose pages do not arrive within `epochs`; once an epoch."""
        self._arrivals = [replace(a, waited=a.waited + 1) for a in self._arrivals]
        return [a.request for a in self._arrivals if a.waited >= epochs]

    @property
    def is_open(self) -> bool:
        """Returns whether weights and pool are there; only then it makes steps."""
        if not self._is_open:
            self._is_open = self.inner.worker.is_ready
        return self._is_open

    @property
    def is_watching(self) -> bool:
        """Returns whether the protocol waits for what a step may bring about."""
        return self.is_busy or bool(self._watched)

    @property
    def is_busy(self) -> bool:
        """Returns whether something is under way that no step will bring to an end."""
        return bool(self._arrivals or self._prefills or self._stopping)

    def look_for_handover(self) -> bool:
        """Counts a look; returns whether a row is to leave or begin soon.

        No step should be launched ahead then: its pages, or its first step, would come
        after that. Where a stage of pages has come, the row itself often comes next;
        neither that nor a commit is waited for without end.
        """
        for copy_id, looks in list(self._coming.items()):
            self._coming[copy_id] = looks + 1
            if looks >= MOST_LOOKS:
                del self._coming[copy_id]
        return bool(self._stopping or self._coming)

    @property
    def awaits_pages(self) -> bool:
        """Returns whether pages are on their way to it, of whose arrival none tells."""
        return bool(self._arrivals)

    # Effects.

    def _tell(
        self,
        event: messages.ToEndpoint | events.EndpointEvent,
        *,
        payload: Payload = None,
    ) -> None:
        """Carries out what the endpoint answers; a write is of `payload` alone."""
        for effect in self._endpoint.step(event):
            if isinstance(effect, effects.WriteChunk):
                self._write_chunk(effect, payload)
            else:
                self._carry[type(effect)](effect)

    def _send(self, effect: effects.Send) -> None:
        payload: Payload = None
        if isinstance(effect.message, messages.Chunk):
            payload = self._load(effect.message, to=effect.to)
        elif isinstance(effect.message, messages.Ready):
            self._expect(effect.message.copy_id)
        self._context.post(effect.to, effect.message, payload)

    def _load(self, chunk: messages.Chunk, *, to: DeviceGroupId) -> Payload:
        """Returns the pages or tokens that go with a chunk, on their way already."""
        sequences, serial = self.inner.sequences, Serial(chunk.from_copy_id)
        if chunk.mode is Mode.TOKENS:
            tokens = sequences.tokens_since(serial, chunk.first)
            return tokens[: chunk.end - chunk.first]
        group, is_elsewhere = self._context.group_of(to), self._context.is_elsewhere(to)
        is_lost = group is None and not is_elsewhere
        if is_lost or chunk.first == chunk.end:
            return PageTransfer(chunks=(), places=NOWHERE)
        places = sequences.places(serial, first=chunk.first, end=chunk.end)
        pages = sequences.pages_at(serial, places)
        packed = page_transfer.pack(self.inner.worker, pages, places=places)
        if group is None:
            return packed
        return self._transport.carry(packed, source=self.device, target=to, to=group)

    def _take_pages(self, effect: effects.TakePages) -> None:
        state = self._context.state(effect.request)
        cached = None
        if state is not None:
            cached = self.inner.reserve(
                state.copy(effect.copy_id),
                tokens=state.tokens[: effect.known],
                pages=effect.pages,
                is_mixed=state.is_mixed,
            )
        if cached is None:
            self._tell(events.Failed(request=effect.request, copy_id=effect.copy_id))
            return
        self.requests[Serial(effect.copy_id)] = effect.request
        self._tell(
            events.Took(request=effect.request, copy_id=effect.copy_id, cached=cached)
        )

    def _write_chunk(self, effect: effects.WriteChunk, payload: Payload) -> None:
        reservations, serial = self.inner.batcher.reservations, Serial(effect.copy_id)
        turns = isinstance(payload, PageTransfer)  # a prefill turns rings as it goes
        if not reservations.extend(serial, positions=effect.end, turns=turns):
            self._tell(events.Failed(request=effect.request, copy_id=effect.copy_id))
            return
        if effect.first == effect.end:
            self._tell_written(effect.request, effect.copy_id, effect.end)
        elif isinstance(payload, PageTransfer):
            arrival = _Arrival(
                request=effect.request,
                copy_id=effect.copy_id,
                end=effect.end,
                transfer=payload,
            )
            if payload.is_awaited:
                self._arrivals.append(arrival)
            else:
                self._unpack(arrival)
        else:
            assert payload is not None, f"{effect} came without its tokens"
            reservations.prefill(serial, payload, first=effect.first)
            self._prefills[effect.copy_id] = effect

    def _unpack(self, arrival: _Arrival) -> None:
        places = arrival.transfer.places
        pages = self.inner.sequences.pages_at(Serial(arrival.copy_id), places)
        page_transfer.unpack(self.inner.worker, arrival.transfer, pages)
        self._tell_written(arrival.request, arrival.copy_id, arrival.end)

    def _watch_row(self, effect: effects.WatchRow) -> None:
        if not self.inner.knows(Serial(effect.copy_id)):  # it has ended meanwhile
            lost = events.RowLost(request=effect.request, copy_id=effect.copy_id)
            self._tell(lost)
            return
        self._watched[effect.copy_id] = effect.request
        self._see_computed(effect.request, effect.copy_id)

    def _stop_row(self, effect: effects.StopRow) -> None:
        serial = Serial(effect.copy_id)
        if self.inner.is_collecting_prompt(serial):
            self._tell(events.RowLost(request=effect.request, copy_id=effect.copy_id))
            return
        self.inner.grants.hold(serial)
        self._stopping[effect.copy_id] = effect
        self._see_stopped(effect)

    def _resume_row(self, effect: effects.ResumeRow) -> None:
        self._stopping.pop(effect.copy_id, None)
        if self.inner.knows(Serial(effect.copy_id)):
            self.inner.grants.resume(Serial(effect.copy_id))

    def _start_row(self, effect: effects.StartRow) -> None:
        self._forget_coming(effect.copy_id)
        serial, state = Serial(effect.copy_id), self._context.state(effect.request)
        if state is None:
            return  # it has ended since; its release is on the way
        if self.inner.knows(serial):
            self.inner.begin(
                serial,
                computed=effect.computed,
                since=effect.since,
                tail=np.array(effect.tail, np.int32),
                pages=state.pages,
            )
            return
        self.requests[serial] = effect.request
        self.inner.start(state.copy(effect.copy_id), tokens=state.tokens)
        self.inner.grants.grant(serial, pages=state.pages)

    def _free(self, effect: effects.Free) -> None:
        copy_id, serial = effect.copy_id, Serial(effect.copy_id)
        self._arrivals = [a for a in self._arrivals if a.copy_id != copy_id]
        self._prefills.pop(copy_id, None)
        self._stopping.pop(copy_id, None)
        self._watched.pop(copy_id, None)
        self._forget_coming(copy_id)
        self.requests.pop(serial, None)
        if self.inner.knows(serial):
            self.inner.drop(serial)
        self._context.freed(copy_id)

    # What the protocol waits for.

    def _see_stopped(self, stop: effects.StopRow) -> None:
        sequences, serial = self.inner.sequences, Serial(stop.copy_id)
        if stop.copy_id not in self._stopping or not sequences.is_settled(serial):
            return
        del self._stopping[stop.copy_id]
        self._tell(
            events.RowStopped(
                request=stop.request,
                copy_id=stop.copy_id,
                computed=sequences.computed(serial),
                tail=tuple(sequences.tokens_since(serial, stop.since).tolist()),
            )
        )

    def _see_computed(self, request: RequestId, copy_id: CopyId) -> None:
        if not self._endpoint.is_moving(copy_id):
            self._watched.pop(copy_id, None)
            return
        computed = self.inner.sequences.computed(Serial(copy_id))
        self._tell(events.Computed(request=request, copy_id=copy_id, computed=computed))

    def _tell_written(self, request: RequestId, copy_id: CopyId, end: int) -> None:
        if self._stage_ends.get(copy_id) == end:
            self._expect(copy_id)
        self._tell(events.Written(request=request, copy_id=copy_id, end=end))

    def _see_stage(self, chunk: messages.Chunk) -> None:
        """Notes where a stage of pages ends that comes for a copy."""
        if chunk.ends_stage and self._endpoint.is_coming(chunk.copy_id):
            self._stage_ends[chunk.copy_id] = chunk.end

    def _forget_coming(self, copy_id: CopyId) -> None:
        self._coming.pop(copy_id, None)
        self._stage_ends.pop(copy_id, None)

    def _expect(self, copy_id: CopyId) -> None:
        """A copy may soon be committed, unless it was."""
        if self._endpoint.is_coming(copy_id):
            self._coming[copy_id] = 0

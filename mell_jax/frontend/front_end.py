"""The event loop's side of the seam sorts frames into one inbox per sequence.

The engine calls `FrontEnd.sink` on its own thread once per step; everything else here
runs in one event loop and never blocks. Requests are known by their id, sequences by
their handle, and whoever closes a request with sequences still alive aborts them, once.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, final

from mell_jax.engine.frames import (
    Abort,
    EngineLoad,
    EngineStopped,
    Finished,
    FinishReason,
    Handle,
    NewVersion,
    StepFrame,
    Submit,
)
from mell_jax.frontend.admission import Admission
from mell_jax.frontend.engine_link import Sink
from mell_jax.frontend.errors import (
    DuplicateRequestError,
    EngineDeadError,
    OverloadedError,
)
from mell_jax.frontend.executors import Executors
from mell_jax.frontend.grammar_gate import GrammarGate
from mell_jax.frontend.inbox import Arrival, Inbox
from mell_jax.frontend.limits import AdmissionLimits
from mell_jax.frontend.meter import Meter
from mell_jax.frontend.models import FrontModel, FrontModels
from mell_jax.frontend.peers import Peers
from mell_jax.frontend.share import Counted, Held
from mell_jax.frontend.tracing import Recorder, Tracing


@final
class FrontEnd:
    """Routes frames to the requests that wait for them."""

    def __init__(
        self,
        send: Callable[[Submit | Abort], None],
        *,
        models: Iterable[FrontModel],
        max_open: int = 4096,
        first_handle: int = 1,
        peers: Peers | None = None,
        limits: AdmissionLimits | None = None,
        recorder: Recorder | None = None,
        load: Callable[[], EngineLoad] | None = None,
    ) -> None:
        """Starts with no request open.

        Args:
            send: takes messages to the engine, from any thread, without blocking.
            models: what the engine serves; the first one is the default.
            max_open: open requests above which `open` refuses, at all front ends.
            first_handle: handles count up from here.
            peers: the other front ends; None where there never is one.
            limits: for what waits, and for how long; None for no bounds.
            recorder: is told of each request when it is over.
            load: of the engine; None where nobody asks why a request came too late.
        """
        self._send = send
        self.load = load
        self.models = FrontModels(models)
        self.meter = Meter(list(self.models.by_name))
        self.admission = Admission(limits or AdmissionLimits(), clock=time.monotonic)
        self.tracing = Tracing(recorder)
        self.executors = Executors(clock=time.monotonic)
        self.grammars = GrammarGate(self.executors)
        self._max_open = max_open
        self._handles = itertools.count(first_handle)
        self._peers = peers
        self._requests: dict[str, OpenRequest] = {}
        self._routes: dict[Handle, tuple[OpenRequest, Inbox]] = {}
        self._stopped: str | None = None
        self._has_stopped = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def num_open(self) -> int:
        return len(self._requests)

    @property
    def num_open_in_all(self) -> int:
        """Counts open requests, also those that other front ends have told of."""
        return len(self._requests) + self.admission.others.requests

    @property
    def num_live(self) -> int:
        """Counts sequences that the engine has not finished, or not yet said so."""
        return len(self._routes)

    @property
    def stopped(self) -> str | None:
        """Tells why nothing is served any more; None while all is well."""
        return self._stopped

    async def wait_stopped(self) -> str:
        """Waits for the end of service and tells its cause, perhaps empty."""
        await self._has_stopped.wait()
        assert self._stopped is not None
        return self._stopped

    async def wait_idle(self) -> None:
        """Waits until no request is open."""
        await self._is_idle.wait()

    def sink(self, loop: asyncio.AbstractEventLoop) -> Sink:
        """Returns the function that the engine calls on its thread with each frame."""

        def pass_on(frame: StepFrame | EngineStopped) -> None:
            try:
                loop.call_soon_threadsafe(self.deliver, frame)
            except RuntimeError:
                if not loop.is_closed():  # nobody is left to listen
                    raise

        return pass_on

    def deliver(self, frame: StepFrame | EngineStopped) -> None:
        """Sorts a frame into the inboxes and wakes their readers."""
        if isinstance(frame, EngineStopped):
            self.stop(frame.message or "the engine has stopped")
            return
        for new in frame.versions:
            self._tell_version(new)
        rows = zip(frame.handles.tolist(), frame.tokens.tolist(), strict=True)
        for row, (handle, token) in enumerate(rows):
            if route := self._routes.get(handle):
                route[1].add(token, logprobs=frame.logprobs, row=row)
                route[0].wake()
        for prompt in frame.prompts:
            if route := self._routes.get(prompt.handle):
                route[1].add_prompt(prompt)
                route[0].wake()
        for finished in frame.finished:
            if route := self._routes.pop(finished.handle, None):
                route[1].add_finished(finished)
                route[0].wake()

    def _tell_version(self, new: NewVersion) -> None:
        for handle in new.handles:
            if route := self._routes.get(handle):
                route[1].add_version(new.version)

    def open(self, request_id: str = "") -> "OpenRequest":
        """Registers a request; close it, best with `with`.

        Other front ends are asked for an id that a client chose; `confirm` has their
        answer.

        Args:
            request_id: names it for `abort`; empty for a fresh random one.

        Raises:
            DuplicateRequestError: a request of this id is open here.
            OverloadedError: too many requests are open.
            EngineDeadError: service has ended.
        """
        if self._stopped is not None:
            raise EngineDeadError(self._stopped, tokens_sent=0)
        if not (self.num_open_in_all < self._max_open):
            self.meter.refuse("overloaded")
            raise OverloadedError(
                f"{self._max_open} requests are open, the most this server keeps",
                retry_after_s=1.0,
            )
        is_asked_for = bool(request_id)
        request_id = request_id or uuid.uuid4().hex
        if request_id in self._requests:
            raise DuplicateRequestError(request_id)
        claim = None
        if is_asked_for and self._peers is not None:
            claim = self._peers.claim(request_id)
        request = OpenRequest(self, request_id=request_id, claim=claim)
        self._requests[request_id] = request
        self._is_idle.clear()
        return request

    def abort(self, request_ids: Iterable[str], *, is_for_others: bool = True) -> None:
        """Ends requests early: they finish with "abort".

        Other front ends are asked for ids that are unknown here, if `is_for_others`.
        """
        unknown = []
        for request_id in request_ids:
            if request := self._requests.get(request_id):
                request.abort()
            else:
                unknown.append(request_id)
        if unknown and is_for_others and self._peers is not None:
            self._peers.abort(unknown)

    def stop(self, cause: str) -> None:
        """Ends service: open requests fail with `cause`, and so do new ones."""
        if self._stopped is None:
            self._stopped = cause
            self._has_stopped.set()
            for request in self._requests.values():
                request.wake()

    def own_counted(self) -> Counted:
        """Returns what this front end has counted."""
        return Counted(models=self.meter.measured(), refused=self.meter.refused)

    def close(self) -> None:
        """Ends threads and processes, after service; may wait a second for them."""
        self.executors.close()
        self.grammars.close()

    async def counted(self) -> Counted:
        """Returns what all front ends of the server have counted since its start."""
        own = self.own_counted()
        return own if self._peers is None else own + await self._peers.count(own)

    def held(self) -> Held:
        """Returns what is open here, for the other front ends."""
        return self.admission.held(requests=len(self._requests))

    def tell_growth(self, tenant: str) -> None:
        """Tells the others at once if much was let in since they were told."""
        if self._peers is None:
            return
        requests = len(self._requests)
        part = self.admission.grown(
            tenant, requests=requests, most_requests=self._max_open
        )
        if part is not None:
            self._peers.grow(part)

    def new_handle(self) -> Handle:
        return Handle(next(self._handles))

    def _submit(self, request: "OpenRequest", submit: Submit, inbox: Inbox) -> None:
        self._routes[submit.handle] = (request, inbox)
        self._send(submit)

    def _send_abort(self, handles: Sequence[Handle]) -> None:
        if handles:
            self._send(Abort(handles=tuple(handles)))

    def _release(self, request_id: str) -> None:
        if self._peers is not None:
            self._peers.release(request_id)

    def _forget(self, request_id: str, handles: Iterable[Handle]) -> None:
        self._requests.pop(request_id, None)
        if not self._requests:
            self._is_idle.set()
        for handle in handles:
            self._routes.pop(handle, None)


@final
class OpenRequest:
    """Keeps the inboxes of a request's samples between its first and its last word."""

    def __init__(
        self,
        front_end: FrontEnd,
        *,
        request_id: str,
        claim: asyncio.Future[bool] | None = None,
    ) -> None:
        self.request_id = request_id
        self.tokens_sent = 0  # counted by the reader, for `EngineDeadError`
        self._front_end = front_end
        self._inboxes: list[Inbox] = []
        self._aborted: set[Handle] = set()  # the engine was told
        self._is_aborted = False
        self._failure: Exception | None = None
        self._reader: asyncio.Future[None] | None = None  # waits for something new
        self._claim = claim  # whether the id is ours, if anybody was asked
        if claim is not None:
            claim.add_done_callback(lambda _: self.wake())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def confirm(self) -> None:
        """Waits until it is certain that no other front end has the id.

        Raises:
            DuplicateRequestError: one has it.
            EngineDeadError: service ended.
            Exception: what `fail` was given.
        """
        while self._claim is not None and not self._claim.done():
            if self._failure is not None:
                raise self._failure
            self._check_alive()
            await self._wait()
        if self._claim is not None and not self._claim.result():
            raise DuplicateRequestError(self.request_id)

    def submit(self, submits: Iterable[Submit]) -> None:
        """Sends the samples to the engine; sample i is the i-th of `submits`."""
        for index, submit in enumerate(submits):
            inbox = Inbox(
                submit.handle, index=index, num_top_logprobs=submit.params.logprobs
            )
            self._inboxes.append(inbox)
            if self._is_aborted:  # before there was anything to abort
                inbox.add_finished(
                    Finished(handle=submit.handle, reason=FinishReason.ABORT)
                )
                self.wake()
            else:
                self._front_end._submit(self, submit, inbox)

    def wake(self) -> None:
        """Tells the reader that something is there; it finds out what by itself."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def arrivals(self) -> list[Arrival]:
        """Waits until something came and returns all of it; empty after the end.

        Raises:
            EngineDeadError: service ended; what came before was returned earlier.
            Exception: what `fail` was given.
        """
        while self._inboxes:
            if self._failure is not None:
                raise self._failure
            ready = [arrival for box in self._inboxes if (arrival := box.take())]
            if ready:
                for arrival in ready:
                    if arrival.finished is not None:
                        self._inboxes = [b for b in self._inboxes if not b.is_finished]
                        break
                return ready
            self._check_alive()
            await self._wait()
        return []

    async def _wait(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _check_alive(self) -> None:
        if self._front_end.stopped is not None:
            raise EngineDeadError(self._front_end.stopped, tokens_sent=self.tokens_sent)

    def abort(self) -> None:
        """Asks the engine to end all samples; they still finish, with "abort"."""
        self._is_aborted = True
        self._abort_once(self._inboxes)

    def fail(self, error: Exception) -> None:
        """Ends all samples at once; a reader that waits for them gets `error`."""
        self._failure = error
        self.abort()
        self.wake()

    def drop(self, handle: Handle) -> None:
        """Ends one sample for good: its reader has heard enough."""
        dropped = [inbox for inbox in self._inboxes if inbox.handle == handle]
        self._abort_once(dropped)
        self._inboxes = [box for box in self._inboxes if box.handle != handle]
        self._front_end._routes.pop(handle, None)

    def close(self) -> None:
        """Forgets the request and aborts what is not finished."""
        self._abort_once(self._inboxes)
        handles = [inbox.handle for inbox in self._inboxes]
        self._front_end._forget(self.request_id, handles)
        if self._claim is not None:
            self._front_end._release(self.request_id)
        self._inboxes = []

    def _abort_once(self, inboxes: Iterable[Inbox]) -> None:
        handles = [
            inbox.handle
            for inbox in inboxes
            if not inbox.is_finished and inbox.handle not in self._aborted
        ]
        self._aborted.update(handles)
        self._front_end._send_abort(handles)

"""A link is a front end as the engine's process sees it: a socket and two threads.

The engine's thread leaves messages in a bounded outbox and never waits. Whatever is
wrong with a front end (it ends, does not read, says nonsense) ends its link, and that
aborts its sequences.
"""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from mell_jax.engine.frames import Abort, EngineLoad, Handle, StepFrame, Submit
from mell_jax.serving.processes.outbox import Outbox
from mell_jax.serving.processes.shared_counts import SharedCounts
from mell_jax.serving.processes.split import part_of
from mell_jax.serving.processes.wire import (
    ROUTE_BITS,
    AbortRequests,
    Beat,
    Claim,
    Claimed,
    Codec,
    CountAsked,
    CountTold,
    FrontEndFailure,
    FrontEndReady,
    Grown,
    ReleaseClaim,
    StepMessage,
    ToFront,
    WireError,
    to_engine,
)

_READ_BYTES = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A front end said something that is not for the engine."""

    number: int
    message: FrontEndReady | AbortRequests


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A front end is gone; its sequences are aborted."""

    number: int
    reason: str
    is_by_itself: bool  # it closed its end; False: it was given up


@final
class FrontLink:
    """A link is the engine's end of a socket pair; call `start` once."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        number: int,
        codec: Codec,
        counts: SharedCounts,
        load: Callable[[], EngineLoad],
        submit: Callable[[Submit | Abort], None],
        tell: Callable[[Heard | Gone], None],
        pass_on: Callable[[Grown], None],
        max_unread_bytes: int,
    ) -> None:
        """Does nothing yet.

        Args:
          sock: closed by the link.
          number: the front end's.
          codec: of messages to front ends.
          counts: told what this front end tells of itself.
          load: how busy the engine is; called on any thread.
          submit: takes messages to the engine, from any thread, without blocking.
          tell: told, on the link's own threads, what else happens.
          pass_on: likewise, what the other front ends are to hear at once.
          max_unread_bytes: a front end that leaves more than that unread is given up.
        """
        self.number = number
        self.unanswered = 0  # pulses, in a row
        self._sock = sock
        self._codec = codec
        self._counts = counts
        self._load = load
        self._submit = submit
        self._tell = tell
        self._pass_on = pass_on
        self._outbox = Outbox(max_bytes=max_unread_bytes)
        self._lock = threading.Lock()
        self._live: set[Handle] = set()  # sequences, in the engine
        self._reason = ""
        self._threads = [
            threading.Thread(target=run, name=f"mell-front-{number}", daemon=True)
            for run in (self._read, self._write)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def send(self, message: ToFront) -> None:
        """Leaves a message for the front end; from any thread, without blocking."""
        try:
            data = self._codec.encode(message)
        except WireError as error:
            self.fail(str(error))
            return
        if not self._outbox.put(data):
            self.fail("it does not read what it is sent")

    def send_step(self, frame: StepFrame, *, load: EngineLoad) -> None:
        """Sends the rows of a step that are for this front end, if there are any."""
        part = part_of(frame, number=self.number)
        if part is None:
            return
        if part.finished:
            with self._lock:
                self._live.difference_update(end.handle for end in part.finished)
        self.send(StepMessage(frame=part, load=load))

    def fail(self, reason: str) -> None:
        """Gives the front end up; `Gone` follows."""
        self._reason = self._reason or reason
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is gone already

    def join(self) -> None:
        """Waits for both threads, after `Gone` or `fail`."""
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        while data := self._outbox.take():
            try:
                self._sock.sendall(data)
            except OSError:
                return  # the reader notices, too
            self._outbox.done(data)

    def _read(self) -> None:
        reader = to_engine().reader()
        try:
            while data := self._sock.recv(_READ_BYTES):
                for message in reader.feed(data):
                    self._take(message)
        except WireError as error:
            self.fail(str(error))
        except OSError as error:  # reset: it was killed with data unread
            self.fail(error.strerror or "its connection broke")
        self._end()

    def _take(self, message: object) -> None:
        match message:
            case Submit():
                self._check(message.handle)
                with self._lock:
                    self._live.add(message.handle)
                self._submit(message)
            case Abort():
                for handle in message.handles:
                    self._check(handle)
                self._submit(message)
            case FrontEndFailure():  # its end follows
                self._reason = self._reason or message.message
            case FrontEndReady() | AbortRequests():
                self._tell(Heard(number=self.number, message=message))
            case _:
                self._note(message)

    def _note(self, message: object) -> None:
        """Takes what is for the other front ends, or needs their words."""
        match message:
            case Beat():
                self.unanswered = 0
                self._counts.count(self.number, message.counted)
                self._counts.hold(self.number, message.held)
            case Grown():
                self._counts.grow(self.number, message.part)
                self._pass_on(message)
            case CountAsked():
                self._counts.count(self.number, message.counted)
                counted = self._counts.counted_by_others(self.number)
                self.send(
                    CountTold(number=message.number, counted=counted, load=self._load())
                )
            case Claim(number=number, request_id=request_id):
                is_free = self._counts.claim(self.number, request_id)
                self.send(Claimed(number=number, is_free=is_free))
            case ReleaseClaim(request_id=request_id):
                self._counts.release(self.number, request_id)

    def _check(self, handle: Handle) -> None:
        if handle >> ROUTE_BITS != self.number:
            raise WireError(f"handle {handle} is another front end's")

    def _end(self) -> None:
        with self._lock:
            lost, self._live = tuple(self._live), set()
        if lost:
            self._submit(Abort(handles=lost))
        self._counts.forget(self.number)
        self._outbox.close()
        self.fail("")  # wakes the writer
        self._threads[1].join()
        self._sock.close()
        self._tell(
            Gone(
                number=self.number,
                reason=self._reason or "it has ended",
                is_by_itself=not self._reason,
            )
        )

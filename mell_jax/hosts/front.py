"""A front end's engine is a whole fleet of hosts, to which it has links.

It is an `EngineLink`, as an engine in the same process is. Its program's loop has a
thread; other threads leave messages there.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import final

from mell_jax.engine.admin import Answer, Command
from mell_jax.engine.frames import Abort, EngineInfo, EngineLoad, EngineStopped, Submit
from mell_jax.frontend import Sink
from mell_jax.hosts.front_program import Frame, FrontProgram
from mell_jax.hosts.link import LinkConfig
from mell_jax.scheduler.ids import FrontId
from mell_jax.scheduler.placement.operator import NotPossibleError

_LOOK_S = 0.2


@final
class HostsEngine:
    """A fleet of hosts, as one front end sees it; see `EngineLink`."""

    def __init__(
        self,
        controller: str,
        *,
        name: str,
        links: LinkConfig,
        on_front: Callable[[FrontId], None] = lambda _: None,
    ) -> None:
        """Does nothing yet.

        Args:
          controller: its address.
          name: of this front end, in logs.
          on_front: hears which front end of the fleet this is.
        """
        self._on_front = on_front
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, name="mell-hosts", daemon=True
        )
        self._is_ready = threading.Event()
        self._is_stopping = False
        self._lock = threading.Lock()  # what is asked before the stop is answered
        self._sink: Callable[[Frame], None] = lambda _: None
        self._program = FrontProgram(
            controller,
            name=name,
            links=links,
            on_front=self._met,
            on_frame=self._pass,
        )

    # -- EngineLink --------------------------------------------------------------------

    @property
    def infos(self) -> tuple[EngineInfo, ...]:
        return tuple(model.info for model in self._program.models)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping

    @property
    def rounds(self) -> int:
        """Grows with every beat."""
        return self._program.rounds

    def ping(self) -> None:
        """Does nothing: beats come by themselves."""

    @property
    def seen_hosts(self) -> frozenset[str]:
        """Returns the names of hosts that are or have been in the fleet."""
        return self._program.seen_hosts

    def connect(
        self,
        *,
        most_s: float | None = None,
        trouble: Callable[[], str] = lambda: "",
    ) -> None:
        """Waits until it knows what the fleet serves.

        Args:
          most_s: how long it waits; None: as long as hosts take to load.
          trouble: says why there is no use in waiting; empty while there is.

        Raises:
          OSError: no controller answers in time, or there is trouble.
        """
        self._thread.start()
        end_s = math.inf if most_s is None else time.monotonic() + most_s
        while not self._is_ready.wait(_LOOK_S):
            cause = trouble()
            if not cause and time.monotonic() >= end_s:
                where = self._program.controller
                cause = f"no controller with a host answers at {where}"
            if cause:
                self.stop()
                raise OSError(cause)

    def start(self, sink: Sink) -> None:
        """Passes frames to `sink` from now on, on a thread of its own."""
        self._sink = sink

    def send(self, message: Submit | Abort) -> None:
        """Takes a message from any thread and never blocks."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._program.take, message)

    def ask(self, command: Command) -> Future[Answer]:
        """Leaves a command of an operator; from any thread, without blocking.

        The future has the answer, or why there is none: see `operator.answer`, and
        `OpenWishes` for what the controller does. What ends all requests ends those of
        this front end.
        """
        found: Future[Answer] = Future()
        with self._lock:
            if self._is_stopping:
                found.set_exception(NotPossibleError("the server stops"))
            else:
                self._loop.call_soon_threadsafe(self._program.answer, command, found)
        return found

    def load(self) -> EngineLoad:
        """Returns how busy the fleet is, and how it looks, as of the latest beat."""
        return self._program.load

    def stop(self) -> None:
        """Leaves the fleet; hosts drop what was this front end's."""
        if self._thread.is_alive():
            with self._lock:
                self._is_stopping = True
            self._loop.call_soon_threadsafe(self._leave)
            self._thread.join()
        self._sink(EngineStopped(message=""))

    # The loop.

    def _met(self, front: FrontId) -> None:
        self._on_front(front)
        self._is_ready.set()

    def _pass(self, frame: Frame) -> None:
        self._sink(frame)

    def _run(self) -> None:
        try:
            self._loop.create_task(self._program.live())
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def _leave(self) -> None:
        self._program.leave()
        self._loop.stop()

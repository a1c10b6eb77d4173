"""Ends streams whose readers take nothing while something waits for them.

    with stalls.watch() as guard:            sweep(), now and then:
        guard.begin()                          writing since longer than timeout_s?
        await write(message)                   -> the task gets StalledReaderError
        guard.end()

A write returns at once until the transport is full: for gRPC when the client's
flow-control window is used up, for HTTP when the socket and 64 KiB more are. A message
costs two looks at the clock, no timer of its own.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self, final

from mell_jax.serving.problem import StalledReaderError

_SWEEPS = 4  # per timeout


@final
class Stalls:
    """Keeps the guards of one event loop."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float]) -> None:
        """Starts with nothing watched.

        Args:
          timeout_s: that a write may take.
          clock: seconds, never backwards.
        """
        self.timeout_s = timeout_s
        self.clock = clock
        self._guards: set[StallGuard] = set()

    def watch(self) -> "StallGuard":
        """Returns a guard for the stream of the running task; use it with `with`."""
        return StallGuard(self)

    def sweep(self) -> None:
        """Ends the streams that have stalled."""
        latest_s = self.clock() - self.timeout_s
        for guard in [each for each in self._guards if each.is_stuck(since_s=latest_s)]:
            guard.cut()

    async def run(self) -> NoReturn:
        """Sweeps until it is cancelled."""
        while True:
            await asyncio.sleep(self.timeout_s / _SWEEPS)
            self.sweep()


@final
class StallGuard:
    """Watches the writes of one stream."""

    def __init__(self, stalls: Stalls) -> None:
        self._stalls = stalls
        self._clock = stalls.clock
        self._since_s: float | None = None  # a write is under way
        self._is_cut = False
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._stalls._guards.add(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stalls._guards.discard(self)
        if not self._is_cut or exc_type is not asyncio.CancelledError:
            return
        assert self._task is not None
        if self._task.uncancel() == 0:  # nobody else cancelled it too
            raise StalledReaderError(
                f"the client took nothing for {self._stalls.timeout_s:g} s while "
                "tokens waited; read streams as they come"
            ) from exc

    def begin(self) -> None:
        """Records that a write begins."""
        self._since_s = self._clock()

    def end(self) -> None:
        """Records that the write has ended."""
        self._since_s = None

    def is_stuck(self, *, since_s: float) -> bool:
        """Returns True if a write has been under way since then or longer."""
        return self._since_s is not None and self._since_s <= since_s

    def cut(self) -> None:
        """Ends the stream."""
        assert self._task is not None
        self._is_cut = True
        self._since_s = None
        self._task.cancel()

"""An event loop runs in a thread of its own, and other threads have work done there.

Work is named by a function that makes the coroutine, which is called in the loop: what
comes too late was never made, so that nothing is left that nobody awaits.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar, final

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]
LAST_WORD_S = 1.0
"""Work that is open when it is closed has so long to end in order."""


@final
class LoopThread:
    """An event loop and its thread, which starts at once.

    Args:
      name: the thread's.
      owner: who is closed when this is, for the error of whoever comes too late.
    """

    def __init__(self, name: str, *, owner: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._owner = owner
        self._lock = threading.Lock()
        self._is_open = True  # the loop still takes what is posted; under the lock
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Returns whether its thread runs: not in a fork, nor when it is closed."""
        return self._thread.is_alive()

    def call(self, work: Work[T]) -> T:
        """Returns what `work` returns; an interrupt here ends it there first.

        Whatever the interrupt raises is raised once nothing of `work` runs any more.

        Raises:
          RuntimeError: it is closed.
          CancelledError: it was closed before `work` came to its end.
        """
        errand = _Errand(work, post=self._post)
        try:  # an interrupt may come as soon as it is posted
            self._begin(errand)
            return errand.outcome.result()
        except BaseException:
            if errand.cancel():
                errand.outcome.exception()
            raise

    async def acall(self, work: Work[T]) -> T:
        """Does what `call` does, for coroutines of this loop or another one."""
        if asyncio.get_running_loop() is self.loop:
            return await work()
        errand = _Errand(work, post=self._post)
        self._begin(errand)
        try:
            return await asyncio.wrap_future(errand.outcome)
        except asyncio.CancelledError:
            errand.cancel()
            raise

    def close(self, *, most_s: float | None = None) -> None:
        """Ends the loop when what is open has ended, or is cancelled, after a moment.

        Waits for that for at most `most_s` seconds (None: as long as it takes).
        """
        if self._thread.is_alive():
            self._post(self.loop.stop)
            self._thread.join(most_s)

    def _begin(self, errand: "_Errand[Any]") -> None:
        if not self._post(errand.begin):
            raise RuntimeError(f"this {self._owner} is closed: make a new one")

    def _post(self, call: Callable[[], object]) -> bool:
        """Has the loop call something soon; returns False if it will call no more."""
        with self._lock:
            if self._is_open:
                self.loop.call_soon_threadsafe(call)
            return self._is_open

    def _run(self) -> None:
        try:
            self.loop.run_forever()
            self._end_tasks(most_s=LAST_WORD_S)
            with self._lock:
                self._is_open = False
            self.loop.run_until_complete(asyncio.sleep(0))  # the last that was posted
            self._end_tasks(most_s=0.0)
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()

    def _end_tasks(self, *, most_s: float) -> None:
        """Waits for open tasks, and cancels those that last longer than `most_s`."""
        timeout: float | None = most_s
        while tasks := asyncio.all_tasks(self.loop):
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=timeout))
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            timeout = None


@final
class _Errand(Generic[T]):
    """Work that another thread wants done, and what became of it."""

    def __init__(
        self, work: Work[T], *, post: Callable[[Callable[[], object]], bool]
    ) -> None:
        self.outcome: Future[T] = Future()
        self._work, self._post = work, post
        self._task: asyncio.Task[T] | None = None

    def begin(self) -> None:
        """Makes the work's task; called in the loop."""
        if self.outcome.set_running_or_notify_cancel():
            self._task = asyncio.get_running_loop().create_task(self._work())
            self._task.add_done_callback(self._tell)

    def cancel(self) -> bool:
        """Has the work given up; returns whether it still has an end to wait for."""
        if self.outcome.done() or self.outcome.cancel():
            return False
        return self._post(self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _tell(self, task: asyncio.Task[T]) -> None:
        """Passes on how the task ended; cancelled is an exception, not a state."""
        if task.cancelled():
            self.outcome.set_exception(CancelledError())
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())

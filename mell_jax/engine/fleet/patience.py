"""Patience is how long the engine waits for a device while others could go on.

A result that takes long makes its device late: from then on the others make steps
without it, and it is looked at in between. A device that stays late is given up.

    wait, at most LATE_S --> late, looked at each step --> given up after stall_s
            '-- comes            '-- comes: not late any more
"""

import queue
import threading
import time
import weakref
from collections.abc import Collection
from typing import Protocol, final

from absl import logging

LATE_S = 1.0
"""Others wait so long for a device, once; a step is shorter, unless all are slow."""


class Result(Protocol):
    """A result is on its way from a device."""

    @property
    def is_ready(self) -> bool:
        """Returns whether it is here; never blocks."""

    def wait(self) -> None:
        """Blocks until it is here; raises what the device did."""


class StalledError(RuntimeError):
    """A device gives no result; it is taken for dead."""


@final
class Patience:
    """Patience knows which instances are late; `stall_s` until one is given up."""

    def __init__(self, *, stall_s: float) -> None:
        self._stall_s = stall_s
        self._since_s: dict[object, float] = {}  # of those that are late
        self._waiter = _Waiter()

    @property
    def is_tried(self) -> bool:
        """Returns whether an instance is late."""
        return bool(self._since_s)

    def is_late(self, instance: object) -> bool:
        return instance in self._since_s

    def forget_others(self, instances: Collection[object]) -> None:
        """Forgets all but these, which are the ones that there are."""
        self._since_s = {k: v for k, v in self._since_s.items() if k in instances}

    def has_come(self, instance: object, result: Result, *, now_s: float) -> bool:
        """Returns whether a result is here; waits for it unless its instance is late.

        Raises:
          StalledError: the instance has been late for too long.
        """
        since_s = self._since_s.get(instance)
        if since_s is None:
            if not (has_come := self.wait(result)):
                self._since_s[instance] = now_s
            return has_come
        if result.is_ready:
            del self._since_s[instance]
            return True
        self.check(since_s, now_s=now_s)
        return False

    def wait(self, result: Result) -> bool:
        """Returns whether a result is here, or comes before it is late."""
        if result.is_ready:
            return True
        return self._waiter.wait(result, most_s=min(LATE_S, self._stall_s))

    def end(self) -> None:
        """Ends the threads that wait, as far as a moment suffices.

        A thread that comes back from the runtime while Python is taken apart would
        abort the process.
        """
        self._waiter.end(most_s=LATE_S)

    def check(self, since_s: float, *, now_s: float) -> None:
        """Checks that what a device was asked for at `since_s` may yet come.

        Raises:
          StalledError: it has taken too long.
        """
        if now_s - since_s >= self._stall_s:
            raise StalledError(f"no result has come for {now_s - since_s:.0f} s")


@final
class _Waiter:
    """A thread waits for results in place of the engine's, which can give up."""

    def __init__(self) -> None:
        self._asked: _Asked | None = None
        self._threads: list[threading.Thread] = []  # the last one takes what is asked

    def wait(self, result: Result, *, most_s: float) -> bool:
        """Returns whether a result has come, or its error, within `most_s`."""
        if self._asked is None:
            self._asked = queue.SimpleQueue()
            weakref.finalize(self, self._asked.put, None)  # ends the thread
            thread = threading.Thread(
                target=_wait_for_all,
                args=(self._asked,),
                name="mell-patience",
                daemon=True,
            )
            self._threads = [one for one in self._threads if one.is_alive()]
            self._threads.append(thread)
            thread.start()
        has_come = threading.Lock()  # the cheapest thing to wait for with a bound
        has_come.acquire()
        self._asked.put((result, has_come))
        if has_come.acquire(timeout=most_s):
            return True
        self._let_go()  # it ends when it can; the next one has a new thread
        return False

    def end(self, *, most_s: float) -> None:
        """Waits at most so long, in all, until no thread waits for a result."""
        self._let_go()
        end_s = time.monotonic() + most_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))

    def _let_go(self) -> None:
        if self._asked is not None:
            self._asked.put(None)
            self._asked = None


_Asked = queue.SimpleQueue[tuple[Result, threading.Lock] | None]


def _wait_for_all(asked: _Asked) -> None:
    while (one := asked.get()) is not None:
        result, has_come = one
        try:
            result.wait()
        except Exception as error:  # whoever reads the result meets it again
            logging.debug("a result has come as an error: %s", error)
        finally:
            has_come.release()

"""An outbox passes bytes from the thread that has some to the one that sends."""

import threading
from collections import deque
from typing import final


@final
class Outbox:
    """An outbox is a queue bounded in bytes whose writer never waits."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # waiting, or being written
        self._is_closed = False

    def put(self, data: bytes) -> bool:
        """Leaves `data` for the reader; False, and nothing left, when it is full."""
        with self._changed:
            if not (self._bytes + len(data) <= self._max_bytes):
                return False
            self._waiting.append(data)
            self._bytes += len(data)
            self._changed.notify()
            return True

    def take(self) -> bytes:
        """Waits for data and takes all of it; empty after `close`."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            data = b"".join(self._waiting)
            self._waiting.clear()
            return data

    def done(self, data: bytes) -> None:
        """Counts what was taken no more, since it has been sent."""
        with self._changed:
            self._bytes -= len(data)

    def close(self) -> None:
        """Ends `take` once everything was taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

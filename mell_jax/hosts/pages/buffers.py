"""Memory for pages that come, used again when nobody has them any more.

Fresh memory costs a third of the time in which pages come: the system clears it page by
page. A buffer is lent as an array, and is free again when that array and all views of
it are gone, among them those that a device array is made of.
"""

import threading
import weakref
from collections import defaultdict, deque
from typing import Any, final

import numpy as np
import numpy.typing as npt

_ALIGNED_BYTES = 64  # where XLA takes an array on a CPU as it lies
Bytes = npt.NDArray[np.uint8]


@final
class Buffers:
    """Any thread may lend buffers, and they come back from any.

    Args:
      most_bytes: that are kept while nobody has them.
    """

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()  # of `_free`
        self._free: dict[int, deque[Bytes]] = defaultdict(deque)
        self._back: deque[Bytes] = deque()  # came back, not yet sorted

    @property
    def free_bytes(self) -> int:
        """Returns how much is kept for later."""
        with self._lock:
            self._sort()
            return sum(size * len(free) for size, free in self._free.items())

    def lend(self, size: int) -> Bytes:
        """Returns an array of bytes, with anything in it."""
        if not size:
            return np.empty(0, np.uint8)
        with self._lock:
            self._sort()
            free = self._free.get(size)
            owner = free.pop() if free else None
        if owner is None:
            owner = _aligned(size)
        lent = np.frombuffer(owner.data, np.uint8)
        # A view of a view has `lent` itself as its base, never the owner.
        weakref.finalize(lent, self._back.append, owner).atexit = False
        return lent

    def _sort(self) -> None:
        while self._back:
            owner = self._back.popleft()
            self._free[owner.nbytes].append(owner)
        self._forget()

    def _forget(self) -> None:
        """Gives back what is too much, sizes first that were not asked for lately."""
        kept = sum(size * len(free) for size, free in self._free.items())
        for size in list(self._free):
            free = self._free[size]
            while free and kept > self._most_bytes:
                free.pop()
                kept -= size
            if not free:
                del self._free[size]


def _aligned(size: int) -> Bytes:
    memory: Any = np.empty(size + _ALIGNED_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNED_BYTES
    part: Bytes = memory[start : start + size]
    return part

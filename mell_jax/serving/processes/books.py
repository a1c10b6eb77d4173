"""What the engine's process knows of its front ends, to tell each about the others."""

import threading
from typing import final

from mell_jax.frontend.share import Counted


@final
class Books:
    """Any thread may call; nothing takes long."""

    def __init__(self) -> None:
        """There is no front end, and there has been none."""
        self._lock = threading.Lock()
        self._counted: dict[int, Counted] = {}  # of the living, by number
        self._past = Counted()  # of the dead

    def count(self, number: int, counted: Counted) -> None:
        """The latest word of a front end on what it has counted since its start."""
        with self._lock:
            self._counted[number] = counted

    def counted_by_others(self, number: int) -> Counted:
        """What all other front ends have counted, living and dead."""
        with self._lock:
            others = [c for other, c in self._counted.items() if other != number]
            return sum(others, start=self._past)

    def forget(self, number: int) -> None:
        """A front end is gone; what it has counted stays."""
        with self._lock:
            self._past += self._counted.pop(number, Counted())

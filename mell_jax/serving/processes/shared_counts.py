"""The engine's process knows this of its front ends, to tell each about the others."""

import threading
from typing import final

from mell_jax.frontend.share import NOTHING_HELD, Counted, Held


@final
class SharedCounts:
    """Keeps the counts of all front ends; any thread may call, nothing takes long."""

    def __init__(self) -> None:
        """Starts without a front end."""
        self._lock = threading.Lock()
        self._counted: dict[int, Counted] = {}  # of the living, by number
        self._past = Counted()  # of the dead
        self._held: dict[int, Held] = {}  # likewise; the dead hold nothing
        self._owners: dict[str, int] = {}  # of request ids

    def count(self, number: int, counted: Counted) -> None:
        """Takes a front end's latest word on what it has counted since its start."""
        with self._lock:
            self._counted[number] = counted

    def counted_by_others(self, number: int) -> Counted:
        """Returns what all other front ends have counted, living and dead."""
        with self._lock:
            others = [c for other, c in self._counted.items() if other != number]
            return sum(others, start=self._past)

    def hold(self, number: int, held: Held) -> None:
        """Takes all that is inside at a front end."""
        with self._lock:
            self._held[number] = held

    def grow(self, number: int, part: Held) -> None:
        """Takes what is inside at a front end now, for the tenants that have grown."""
        with self._lock:
            held = self._held.get(number, NOTHING_HELD)
            self._held[number] = held.updated(part)

    def held_by_others(self, number: int) -> Held:
        """Returns what is inside at all other front ends."""
        with self._lock:
            others = [held for other, held in self._held.items() if other != number]
        return sum(others, start=NOTHING_HELD)

    def grown_at_others(self, number: int, part: Held) -> Held:
        """Returns the same for the tenants of `part` alone."""
        with self._lock:
            others = [held for other, held in self._held.items() if other != number]
        few = [held.only(part.tenants) for held in others]
        return sum(few, start=NOTHING_HELD)

    def claim(self, number: int, request_id: str) -> bool:
        """Gives a front end an id, unless another one has it."""
        with self._lock:
            return self._owners.setdefault(request_id, number) == number

    def release(self, number: int, request_id: str) -> None:
        """Takes an id back from a front end, if it has it."""
        with self._lock:
            if self._owners.get(request_id) == number:
                del self._owners[request_id]

    def forget(self, number: int) -> None:
        """Forgets a front end that is gone; what it has counted stays."""
        with self._lock:
            for request_id in [i for i, n in self._owners.items() if n == number]:
                del self._owners[request_id]
            self._held.pop(number, None)
            self._past += self._counted.pop(number, Counted())

"""The agenda of a simulation: what is due, soonest first, and what time it is.

Of equal times what was noted first comes first, so a run depends on nothing else. What
was noted cannot be taken back: each entry has a number, by which its owner knows
whether it still holds.
"""

import heapq
import math
from collections.abc import Callable
from typing import Any

Action = Callable[[Any, int], None]


class Agenda:
    """The agenda holds actions and the seconds at which they are due."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Action, Any]] = []
        self._numbers = 0

    @property
    def next_s(self) -> float:
        """Tells when the next action is due; inf for never."""
        return self._heap[0][0] if self._heap else math.inf

    def note(self, at_s: float, action: Action, subject: Any) -> int:
        """Has `action(subject, number)` called at `at_s`; returns the number, >= 1."""
        self._numbers += 1
        heapq.heappush(self._heap, (at_s, self._numbers, action, subject))
        return self._numbers

    def advance(self) -> None:
        """Goes to the next action and carries it out."""
        self.now_s, number, action, subject = heapq.heappop(self._heap)
        action(subject, number)

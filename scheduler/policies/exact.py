"""Packs the requests of a few instances into one instance less, by branch and bound.

    d0 [5 . . . .]  d1 [4 4 . .]  d2 [3 3 . .]     ->   close d0: its 5 to d1, a 4 to d2

Small enough to be exact where requests are near half an instance, so that only pairs
and triples fit and best fit is blind. The limit is a number of nodes, not a time, so
that equal events give equal plans.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_NODES = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class PackItem:
    """`size` pages that live in bin `home`."""

    size: int
    home: int


def close_one(
    items: Sequence[PackItem],
    *,
    rooms: Sequence[int],
    closing: int,
    max_cost: int,
    max_nodes: int = MAX_NODES,
) -> list[int] | None:
    """The bin of every item so that bin `closing` is empty and the fewest pages move.

    Args:
      rooms: what each bin could hold if it were empty.
      max_cost: most pages that may move.

    Returns:
      A bin for each item, or None when there is no such packing within the limits, or
      none that can be carried out move by move with both copies counted.
    """
    search = _Search(items, rooms=list(rooms), closing=closing, max_nodes=max_nodes)
    search.best_cost = max_cost + 1
    search.place(0, 0)
    best = search.best
    if best is None or not can_carry_out(items, best, rooms=rooms):
        return None
    return best


def can_carry_out(
    items: Sequence[PackItem], bins: Sequence[int], *, rooms: Sequence[int]
) -> bool:
    """Tells whether all moves get room if each begins as soon as it has it, in order.

    So the executor starts them; another order may work where this one does not.
    """
    free = list(rooms)
    for item in items:
        free[item.home] -= item.size
    left = [(item, to) for item, to in zip(items, bins, strict=True) if item.home != to]
    while left:
        blocked = []
        for item, to in left:
            if free[to] >= item.size:
                free[to] -= item.size
                free[item.home] += item.size
            else:
                blocked.append((item, to))
        if len(blocked) == len(left):
            return False
        left = blocked
    return True


class _Search:
    """Depth first: largest item first, its home before other bins."""

    def __init__(
        self,
        items: Sequence[PackItem],
        *,
        rooms: list[int],
        closing: int,
        max_nodes: int,
    ) -> None:
        self.best: list[int] | None = None
        self.best_cost = 0
        self._items = items
        self._order = sorted(range(len(items)), key=lambda i: (-items[i].size, i))
        self._free = rooms
        self._free[closing] = 0
        self._bins = [-1] * len(items)
        self._nodes_left = max_nodes
        self._unplaced = sum(item.size for item in items)
        self._total_free = sum(self._free)

    def place(self, depth: int, cost: int) -> None:
        if cost >= self.best_cost or self._unplaced > self._total_free:
            return
        if depth == len(self._order):
            self.best, self.best_cost = list(self._bins), cost
            return
        at = self._order[depth]
        size, home = self._items[at].size, self._items[at].home
        for to in [home, *(b for b in range(len(self._free)) if b != home)]:
            if self._free[to] < size:
                continue
            self._nodes_left -= 1
            if self._nodes_left < 0:
                return
            self._bins[at] = to
            self._step(to, size)
            self.place(depth + 1, cost + (size if to != home else 0))
            self._step(to, -size)

    def _step(self, to: int, size: int) -> None:
        self._free[to] -= size
        self._total_free -= size
        self._unplaced -= size

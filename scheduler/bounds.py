"""How few instances could hold requests of given sizes: a lower bound and a packing.

Sizes and capacity are in pages. `lower_bound` is Martello and Toth's L2 ("Lower bounds
and reduction procedures for the bin packing problem", 1990); `first_fit_decreasing` packs
and so bounds from above.
"""

import numpy as np
import numpy.typing as npt

Sizes = npt.NDArray[np.int64]


def lower_bound(sizes: Sizes, *, capacity: int) -> int:
    """L2: no packing of `sizes` [n] uses fewer instances of `capacity`.

    For every threshold a <= C/2: what is larger than C - a has an instance alone, what is
    larger than C/2 has one that may still take some of those in [a, C/2], and the rest of
    these needs at least its volume.
    """
    if not len(sizes):
        return 0
    order = np.sort(sizes)
    assert order[-1] <= capacity, f"{order[-1]} pages never fit {capacity}"
    sums = np.concatenate([[0], np.cumsum(order)])
    half = int(np.searchsorted(order, capacity // 2, side="right"))
    below = np.concatenate([[0], np.arange(half)])  # first index at or above a
    thresholds = np.concatenate([[0], order[:half]])
    alone_from = np.searchsorted(order, capacity - thresholds, side="right")
    large = len(order) - half
    halves = alone_from - half
    spare = halves * capacity - (sums[alone_from] - sums[half])
    rest = sums[half] - sums[below] - spare
    return int((large + np.maximum(0, -(-rest // capacity))).max())


def first_fit_decreasing(sizes: Sizes, *, capacity: int) -> int:
    """Instances of `capacity` that first fit uses for `sizes` [n] in falling order."""
    rooms: list[int] = []
    start, last = 0, -1
    for size in np.sort(sizes)[::-1].tolist():
        if size != last:
            start, last = 0, size
        while start < len(rooms) and rooms[start] < size:
            start += 1  # no later request of this size fits before it either
        if start == len(rooms):
            rooms.append(capacity)
        rooms[start] -= size
    return len(rooms)


def time_bound(
    *, rows: int, pages: int, row_s: float, page_s: float, room_s: float
) -> int:
    """Instances that `rows` requests of `pages` in all need within a step-time budget.

    `room_s` is the budget of one instance without the fixed part of a step.
    """
    if rows == 0:
        return 0
    work = rows * row_s + pages * page_s
    return max(1, int(np.ceil(work / room_s - 1e-9))) if work > 0 else 1

"""These functions tell how few instances could hold requests of given sizes.

Sizes and capacity are in pages. `lower_bound` is Martello and Toth's L2 ("Lower bounds
and reduction procedures for the bin packing problem", 1990); `first_fit_decreasing` is
a packing, so it bounds from above.
"""

import math

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.placement.model import ModelSpec

Sizes = npt.NDArray[np.int64]


def lower_bound(sizes: Sizes, *, capacity: int) -> int:
    """Computes L2: no packing of `sizes` [n] uses fewer instances of `capacity`.

    For every threshold a <= C/2: what is larger than C - a has an instance alone, what
    is larger than C/2 has one that may still take some of those in [a, C/2], and the
    rest of these needs at least its volume.
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
    """Counts the instances that first fit uses for `sizes` [n] in falling order."""
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


def instances_bound(sizes: Sizes, *, spec: ModelSpec) -> int:
    """Returns the larger of L2 over pages and what the step-time budget asks for."""
    if not len(sizes):
        return 0
    alone = spec.capacity(1)
    pages = lower_bound(np.minimum(sizes, alone), capacity=alone)
    if not spec.is_time_bound:
        return pages
    step = spec.step_time
    work_s = len(sizes) * step.row_s + int(sizes.sum()) * step.page_s
    if work_s == 0:
        return pages
    return max(pages, math.ceil(work_s / (spec.step_budget_s - step.fixed_s) - 1e-9))

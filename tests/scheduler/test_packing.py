"""The lower bound and first fit decreasing against a naive packing and brute force."""

import numpy as np

from mell_jax.scheduler.bounds import first_fit_decreasing, lower_bound


def naive_first_fit_decreasing(sizes: list[int], capacity: int) -> int:
    bins: list[int] = []
    for size in sorted(sizes, reverse=True):
        for at, used in enumerate(bins):
            if used + size <= capacity:
                bins[at] += size
                break
        else:
            bins.append(size)
    return len(bins)


def fewest(sizes: list[int], capacity: int) -> int:
    """Every assignment, without those that differ only by the names of bins."""

    def search(left: list[int], bins: tuple[int, ...], best: int) -> int:
        if len(bins) >= best:
            return best
        if not left:
            return len(bins)
        size, rest = left[0], left[1:]
        for at, used in enumerate(bins):
            if used + size <= capacity:
                grown = (*bins[:at], used + size, *bins[at + 1 :])
                best = search(rest, grown, best)
        return search(rest, (*bins, size), best)

    return search(sizes, (), len(sizes) + 1)


def array(sizes: list[int]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array(sizes, np.int64)


def test_worked_examples() -> None:
    assert lower_bound(array([]), capacity=10) == 0
    assert lower_bound(array([6, 6, 6]), capacity=10) == 3  # the volume says 2
    assert lower_bound(array([6, 6, 4, 4]), capacity=10) == 2
    assert lower_bound(array([4, 4, 4]), capacity=10) == 2
    assert first_fit_decreasing(array([4, 4, 4, 6]), capacity=10) == 2


def test_bound_and_packing_enclose_the_optimum() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        capacity = int(rng.integers(5, 40))
        sizes = rng.integers(1, capacity + 1, int(rng.integers(0, 8))).tolist()
        optimum = fewest(sizes, capacity)
        assert lower_bound(array(sizes), capacity=capacity) <= optimum
        packed = first_fit_decreasing(array(sizes), capacity=capacity)
        assert optimum <= packed <= 11 / 9 * optimum + 6 / 9


def test_first_fit_decreasing_equals_the_naive_one() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        capacity = int(rng.integers(5, 100))
        sizes = rng.integers(1, capacity + 1, int(rng.integers(0, 80))).tolist()
        packed = first_fit_decreasing(array(sizes), capacity=capacity)
        assert packed == naive_first_fit_decreasing(sizes, capacity)

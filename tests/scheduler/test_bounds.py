"""Bounds against brute force, and by hand."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.bounds import (
    first_fit_decreasing,
    instances_bound,
    lower_bound,
)
from mell_jax.scheduler.placement.model import ModelSpec, StepTime


def optimum(sizes: list[int], *, capacity: int) -> int:
    """By trying every assignment."""
    for count in range(len(sizes) + 1):
        for bins in itertools.product(range(max(1, count)), repeat=len(sizes)):
            loads = [0] * max(1, count)
            for size, at in zip(sizes, bins, strict=True):
                loads[at] += size
            if max(loads) <= (capacity if count else 0):
                return count
    raise AssertionError


def test_three_that_are_just_over_half_need_three() -> None:
    sizes = np.array([6, 6, 6])
    assert lower_bound(sizes, capacity=10) == 3  # the volume alone says 2
    assert first_fit_decreasing(sizes, capacity=10) == 3


def test_small_ones_fill_up_beside_large_ones() -> None:
    sizes = np.array([7, 6, 4, 3])
    assert lower_bound(sizes, capacity=10) == 2
    assert first_fit_decreasing(sizes, capacity=10) == 2


def test_nothing_needs_nothing() -> None:
    assert lower_bound(np.array([], np.int64), capacity=10) == 0
    assert first_fit_decreasing(np.array([], np.int64), capacity=10) == 0
    spec = ModelSpec(capacity_pages=10)
    assert instances_bound(np.array([], np.int64), spec=spec) == 0


def test_the_larger_of_pages_and_time_counts() -> None:
    spec = ModelSpec(
        capacity_pages=100,
        step_time=StepTime(fixed_s=1.0, row_s=1.0),
        step_budget_s=4.0,
    )
    assert instances_bound(np.array([1] * 7), spec=spec) == 3  # three rows on each
    assert instances_bound(np.array([60, 60]), spec=spec) == 2


def test_the_pages_that_one_row_leaves_time_for_are_the_most_of_an_instance() -> None:
    spec = ModelSpec(
        capacity_pages=100,
        step_time=StepTime(row_s=1.0, page_s=0.1),
        step_budget_s=3.0,
    )  # 20 pages beside a row
    assert instances_bound(np.array([11] * 4), spec=spec) == 4  # by time alone 3


@given(st.lists(st.integers(1, 10), max_size=6))
def test_bounds_enclose_the_optimum(sizes: list[int]) -> None:
    best = optimum(sizes, capacity=10)
    below = lower_bound(np.array(sizes, np.int64), capacity=10)
    above = first_fit_decreasing(np.array(sizes, np.int64), capacity=10)
    assert below <= best <= above
    assert 9 * above <= 11 * best + 6


@given(st.lists(st.integers(1, 50), max_size=60))
def test_first_fit_decreasing_is_what_its_name_says(sizes: list[int]) -> None:
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        for at, room in enumerate(rooms):
            if room >= size:
                rooms[at] -= size
                break
        else:
            rooms.append(50 - size)
    assert first_fit_decreasing(np.array(sizes, np.int64), capacity=50) == len(rooms)

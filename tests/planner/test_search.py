"""The search for the cheapest fleet, against judges that can be done in the head."""

import asyncio
import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.planner.search import (
    Fleet,
    Smallest,
    cheapest_mix,
    first_met,
    smallest,
)


@dataclass(frozen=True)
class Verdict:
    is_met: bool


def find(needed: int, *, guess: int, most: int) -> Smallest:
    async def is_met(count: int) -> bool:
        return count >= needed

    return asyncio.run(smallest(is_met, guess=guess, most=most))


def test_a_right_guess_takes_two_trials() -> None:
    assert find(5, guess=5, most=100) == Smallest(count=5, tried=(4, 5))


def test_steps_from_a_wrong_guess_double() -> None:
    found = find(1, guess=20, most=100)
    assert found == Smallest(count=1, tried=(1, 2, 5, 13, 17, 19, 20))
    assert find(30, guess=20, most=100).tried == (20, 21, 23, 27, 29, 30, 31, 35)


@given(needed=st.integers(1, 60), guess=st.integers(-3, 90), most=st.integers(1, 50))
def test_the_fewest_are_found_from_any_guess(
    needed: int, guess: int, most: int
) -> None:
    found = find(needed, guess=guess, most=most)
    assert found.count == (needed if needed <= most else None)
    assert len(found.tried) <= 13


@given(first=st.integers(0, 12), count=st.integers(0, 10))
def test_the_first_that_meets_is_found_by_halving(first: int, count: int) -> None:
    tried = []

    async def is_met(number: int) -> bool:
        tried.append(number)
        return number >= first

    found = asyncio.run(first_met(is_met, count=count))
    assert found == (first if first < count else None)
    assert len(tried) <= 5


def test_at_least_one_instance_must_be_allowed() -> None:
    with pytest.raises(ValueError, match="most must be >= 1, got 0"):
        find(1, guess=1, most=0)


def mix(
    carries: tuple[float, ...],
    *,
    load: float,
    prices: tuple[float, ...],
    most_tries: int = 1000,
) -> tuple[Fleet | None, list[Fleet]]:
    """The cheapest mix of instances that carry so much each, and what was tried."""
    tried = []

    def is_met(fleet: Fleet) -> bool:
        return sum(n * c for n, c in zip(fleet, carries, strict=True)) >= load

    async def judge(fleet: Fleet) -> Verdict:
        tried.append(fleet)
        return Verdict(is_met(fleet))

    alone = [-int(-load // each) for each in carries]
    found = asyncio.run(
        cheapest_mix(judge, prices=prices, alone=alone, most_tries=most_tries)
    )
    return found, tried


def test_a_mix_fills_what_one_kind_leaves_over() -> None:
    found, tried = mix((10.0, 3.0), load=22, prices=(5.0, 2.0))
    assert found == (2, 1)  # 12, where three of the first cost 15
    assert (3, 0) not in tried and (0, 8) not in tried


def test_no_mix_is_better_where_one_kind_fits_exactly() -> None:
    assert mix((10.0, 3.0), load=20, prices=(5.0, 2.0))[0] is None


def test_tries_are_bounded() -> None:
    found, tried = mix((10.0, 3.0), load=22, prices=(5.0, 2.0), most_tries=0)
    assert found is None and tried == []


@given(
    carries=st.tuples(*[st.integers(1, 12)] * 3),
    prices=st.tuples(*[st.integers(1, 12)] * 3),
    load=st.integers(13, 40),
)
def test_the_mix_is_the_cheapest_of_all_of_two_kinds(
    carries: tuple[int, ...], prices: tuple[int, ...], load: int
) -> None:
    found, _ = mix(carries, load=load, prices=prices)
    alone = [-(-load // each) for each in carries]
    best_alone = min(n * p for n, p in zip(alone, prices, strict=True))
    costs = [
        sum(n * p for n, p in zip(fleet, prices, strict=True))
        for fleet in itertools.product(*(range(n + 1) for n in alone))
        if sum(n * c for n, c in zip(fleet, carries, strict=True)) >= load
        and sum(count > 0 for count in fleet) <= 2
    ]
    cost = best_alone
    if found is not None:
        cost = sum(n * p for n, p in zip(found, prices, strict=True))
        assert cost < best_alone
    assert cost == min(costs)

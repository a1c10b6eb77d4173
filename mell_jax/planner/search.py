"""Searches fleets for the cheapest that meets an SLO; a judge tells which ones do.

    how full     the fullest that instances may be with as many of them as one likes
    one kind     gallop from a guess to a pair n - 1, n of which only the second does
    two kinds    mixes that are cheaper than the best of those, the cheapest first

More devices are taken to be no worse: what a failing fleet contains is not tried.
"""

import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Fleet = tuple[int, ...]
"""Instances of each option, in the order of the options."""


class Verdict(Protocol):
    """A verdict says whether a fleet meets the SLO."""

    @property
    def is_met(self) -> bool: ...


Judge = Callable[[Fleet], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Smallest:
    """The fewest instances of one option that meet the SLO; None: not even the most."""

    count: int | None
    tried: tuple[int, ...]


async def smallest(
    is_met: Callable[[int], Awaitable[bool]], *, guess: int, most: int
) -> Smallest:
    """Returns the fewest instances for which `is_met`, if more are never worse.

    Steps from the guess double until one number meets and a smaller one does not; the
    gap between them is halved.

    Raises:
      ValueError: `most` is below 1.
    """
    if not (most >= 1):
        raise ValueError(f"most must be >= 1, got {most}")
    known: dict[int, bool] = {}

    async def meets(count: int) -> bool:
        if count not in known:
            known[count] = await is_met(count)
        return known[count]

    low, high = await _around(meets, guess=min(max(guess, 1), most), most=most)
    if high is None:
        return Smallest(count=None, tried=tuple(sorted(known)))
    while high - low > 1:
        middle = (low + high) // 2
        if await meets(middle):
            high = middle
        else:
            low = middle
    return Smallest(count=high, tried=tuple(sorted(known)))


async def first_met(
    is_met: Callable[[int], Awaitable[bool]], *, count: int
) -> int | None:
    """Returns the first of `count` candidates for which `is_met`, None without any.

    Candidates stand in an order in which those after one that meets do so, too.
    """
    if not count or not await is_met(count - 1):
        return None
    low, high = -1, count - 1  # `high` meets, `low` does not
    while high - low > 1:
        middle = (low + high) // 2
        if await is_met(middle):
            high = middle
        else:
            low = middle
    return high


async def _around(
    meets: Callable[[int], Awaitable[bool]], *, guess: int, most: int
) -> tuple[int, int | None]:
    """A number that does not meet, or 0, and a larger one that does, None without."""
    step = 1
    if await meets(guess):
        low, high = guess - step, guess
        while low >= 1 and await meets(low):
            step *= 2
            low, high = low - step, low
        return max(low, 0), high
    low, high = guess, guess + step
    while low < most:
        high = min(high, most)
        if await meets(high):
            return low, high
        step *= 2
        low, high = high, high + step
    return low, None


async def cheapest_mix(
    judge: Judge,
    *,
    prices: Sequence[float],
    alone: Sequence[int | None],
    most_tries: int,
) -> Fleet | None:
    """Returns the cheapest mix of two options below the best one alone, None without.

    Candidates come cheapest first, so the first that meets is the answer. One whose
    parts are too few is not tried: `count - 1` of an option do not carry the load, so
    an instance of it is taken for less than `1 / (count - 1)` of the load, and the
    shares have to come to more than one.

    Args:
      prices: of an instance of each option.
      alone: the fewest instances of each option that meet the SLO by themselves.
      most_tries: candidates that are judged at most.
    """
    failed: list[Fleet] = []
    tries = 0
    for fleet in _mixes(prices=prices, alone=alone):
        if any(_is_within(fleet, other) for other in failed):
            continue
        if tries == most_tries:
            return None
        tries += 1
        if (await judge(fleet)).is_met:
            return fleet
        failed.append(fleet)
    return None


def _mixes(*, prices: Sequence[float], alone: Sequence[int | None]) -> Iterator[Fleet]:
    """Fleets of two options that cost less than the best alone and may do."""
    counts = [0 if count is None else count for count in alone]
    most_cost = min(
        (c * p for c, p in zip(counts, prices, strict=True) if c), default=0.0
    )
    found = []
    for pair in itertools.combinations(range(len(counts)), 2):
        ranges = [
            range(1, counts[at]) if at in pair else (0,) for at in range(len(counts))
        ]
        for fleet in itertools.product(*ranges):
            cost = sum(n * p for n, p in zip(fleet, prices, strict=True))
            if cost < most_cost - 1e-9 and _share(fleet, counts) > 1:
                found.append((cost, fleet))
    return (fleet for _, fleet in sorted(found))


def _share(fleet: Fleet, counts: Sequence[int]) -> float:
    """The load that a mix carries at most; an option that needs one alone carries all,
    but then it is no part of a cheaper mix."""
    return sum(n / (c - 1) for n, c in zip(fleet, counts, strict=True) if n and c > 1)


def _is_within(fleet: Fleet, other: Fleet) -> bool:
    return all(n <= m for n, m in zip(fleet, other, strict=True))

"""Ranges of a sample's tokens say of which version of the weights these are.

A version is told where it begins, mostly once: nothing is kept per token.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple


class VersionStart(NamedTuple):
    """Tokens from number `first` of an arrival on are of weights of this version."""

    first: int
    version: str


class VersionRange(NamedTuple):
    """Tokens `first` to `end` of a sample, which is past them, are of this version."""

    version: str
    first: int
    end: int


def ranges_of(
    starts: Sequence[VersionStart], *, version: str, first: int, count: int
) -> tuple[VersionRange, ...]:
    """Returns the ranges of some new tokens of a sample, but of those untold of.

    Args:
      starts: of versions among them, in order.
      version: of the token before them; empty if nobody told.
      first: the number of the first of them in its sample.
      count: of the new tokens.
    """
    ranges = []
    bounds = [VersionStart(0, version), *starts, VersionStart(count, "")]
    for here, after in pairwise(bounds):
        end = min(after.first, count)
        if here.first < end and here.version:
            ranges.append(VersionRange(here.version, first + here.first, first + end))
    return joined(ranges)


def joined(ranges: Iterable[VersionRange]) -> tuple[VersionRange, ...]:
    """Returns ranges in order with neighbours of one version as one."""
    whole: list[VersionRange] = []
    for each in ranges:
        if whole and whole[-1].version == each.version:
            whole[-1] = VersionRange(each.version, whole[-1].first, each.end)
        else:
            whole.append(each)
    return tuple(whole)

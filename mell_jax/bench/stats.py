"""Computes statistics of samples; the one definition of a percentile is here.

A percentile is interpolated linearly between the closest ranks: of 10, 20, 30 and 40
the 50th is 25 and the 90th is 37. It is NumPy's default and what vLLM's benchmark uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A summary is of a sample; all is zero when that is empty, as `count` tells."""

    count: int
    mean: float
    median: float
    p99: float
    min: float
    max: float


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns a percentile, interpolated linearly between closest ranks.

    Raises:
      ValueError: there are no values, or `percent` is not from 0 to 100.
    """
    if not (0.0 <= percent <= 100.0):
        raise ValueError(f"percent must be from 0 to 100, got {percent}")
    if not values:
        raise ValueError("a percentile needs at least one value, got none")
    return float(np.percentile(np.asarray(values, np.float64), percent))


def median(values: Sequence[float]) -> float:
    """Returns the middle value, or the mean of the two in the middle.

    Raises:
      ValueError: there are no values.
    """
    return percentile(values, 50.0)


def summarize(values: Sequence[float]) -> Summary:
    """Returns mean, median, 99th percentile and range of a sample."""
    if not values:
        return Summary(count=0, mean=0.0, median=0.0, p99=0.0, min=0.0, max=0.0)
    return Summary(
        count=len(values),
        mean=float(np.mean(values)),
        median=median(values),
        p99=percentile(values, 99.0),
        min=float(min(values)),
        max=float(max(values)),
    )

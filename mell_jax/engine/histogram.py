"""A histogram counts values up to each of a few bounds, and never grows.

A `HistogramRecorder` counts on one thread; the `Histogram` that it freezes is a plain
value, which can be added to others, sent to another process and read by any thread.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A histogram holds counts of values up to each bound, and above all of them.

    Raises:
      ValueError: there is not one count more than bounds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]  # one more than bounds
    total: float  # of the values

    def __post_init__(self) -> None:
        if not (len(self.counts) == len(self.bounds) + 1):
            raise ValueError(
                f"{len(self.bounds)} bounds need one count more, got {len(self.counts)}"
            )

    @classmethod
    def of(cls, values: Iterable[float], *, bounds: tuple[float, ...]) -> Self:
        """Returns the histogram of `values`, which may be none."""
        counts, total = [0] * (len(bounds) + 1), 0.0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        return cls(bounds=bounds, counts=tuple(counts), total=total)

    def __add__(self, other: "Histogram") -> "Histogram":
        assert self.bounds == other.bounds, f"{self.bounds} != {other.bounds}"
        pairs = zip(self.counts, other.counts, strict=True)
        return Histogram(
            bounds=self.bounds,
            counts=tuple(a + b for a, b in pairs),
            total=self.total + other.total,
        )

    @property
    def count(self) -> int:
        """Returns the number of values."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """Returns the bound below which `share` of the values lie.

        It is infinite where they lie above all bounds, and 0 where there are none.

        Raises:
          ValueError: `share` is above 1.
        """
        wanted, seen = share * self.count, 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            if seen >= wanted:
                return bound if self.count else 0.0
        raise ValueError(f"share must be in [0, 1], got {share}")


@final
class HistogramRecorder:
    """A recorder counts values, in a fraction of a microsecond each."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float, *, count: int = 1) -> None:
        """Counts `value` `count` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._total += value * count

    def frozen(self) -> Histogram:
        """Returns what was counted so far; the value does not change afterwards."""
        return Histogram(
            bounds=self._bounds, counts=tuple(self._counts), total=self._total
        )

"""Tells how fast something still grows once it has settled, as a leak does."""

from collections.abc import Sequence

import numpy as np


def settled_slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Returns how fast `ys` grow with `xs`: least squares over the later half of both.

    What comes first is left out, since caches fill then. A leak is what still grows.

    Raises:
      ValueError: the later half has fewer than two different `xs`.
    """
    half = len(xs) // 2
    x, y = (np.asarray(values, np.float64)[half:] for values in (xs, ys))
    if not (len(set(x.tolist())) >= 2):
        raise ValueError(f"a slope needs four samples apart, got {len(xs)}")
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / (x @ x))

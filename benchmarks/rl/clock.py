"""Times calls, one after the other."""

import time
from collections.abc import Callable, Sequence

from mell_jax.bench.stats import Summary, median, summarize


def seconds_of(call: Callable[[], object]) -> float:
    """Returns how long a call takes."""
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


def in_ms(times_s: Sequence[float]) -> Summary:
    """Returns times in milliseconds."""
    return summarize([1e3 * time_s for time_s in times_s])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the median over pairs of what was measured in turns."""
    return median([a / b for a, b in zip(ours, theirs, strict=True)])

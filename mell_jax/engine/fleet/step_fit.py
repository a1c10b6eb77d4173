"""A fit says what a decode step takes: so much, and more with each row and each page.

    rows     of the smallest, the middle and the largest compiled step; the fewest, too
    pages    one for each row, and all that fits

All instances make a step at once, as they may while they serve. By the fit, placement
keeps the time per output token.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from absl import logging

from mell_jax.engine.frames import EngineInfo
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.timing import time_decodes

FIT_S = 1.0
"""Steps are timed for so long, and one more time each at most."""
MOST_TURNS = 5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """A step of this shape decodes `rows` that each see `pages` full pages."""

    rows: int
    pages: int  # along a row, 16 tokens each


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Coefficients [k] are fitted; `errors` [n] are shares of what was timed."""

    coefficients: Floats
    errors: Floats

    @property
    def typical_error(self) -> float:
        return float(np.median(np.abs(self.errors)))

    @property
    def worst_error(self) -> float:
        return float(np.abs(self.errors).max())


def fit_seconds(
    causes: npt.ArrayLike,
    *,
    took_s: npt.ArrayLike,
    expected_s: npt.ArrayLike | None = None,
) -> Fitted:
    """Fits `took_s` [n] by a sum of `causes` [n, k]; no coefficient is negative.

    Errors count as shares: one of a tenth is as bad in a short step as in a long one.

    Args:
      causes: how much of each cause a time has had.
      took_s: the times.
      expected_s: [n] what errors are shares of; by default what was timed. Where
        single times are noisy, shares of these would favour those that are too short.

    Raises:
      ValueError: a time is not positive.
    """
    from scipy.optimize import nnls  # noqa: PLC0415 - slow, and mostly needless

    seconds = np.asarray(took_s, np.float64)
    if not (seconds > 0).all():
        raise ValueError(f"times must be positive, got {seconds.min()} s")
    wanted_s = seconds if expected_s is None else np.asarray(expected_s, np.float64)
    shares = np.asarray(causes, np.float64) / wanted_s[:, None]
    scales = np.where(shares.any(axis=0), shares.max(axis=0), 1.0)
    found, _ = nnls(shares / scales, seconds / wanted_s)
    coefficients = found / scales
    return Fitted(
        coefficients=coefficients,
        errors=(shares @ coefficients) * wanted_s / seconds - 1.0,
    )


def fit_step_time(
    took_s: Mapping[StepShape, float], *, cache: CacheSpec
) -> tuple[StepTime, Fitted]:
    """Returns the step time that fits best, and how well; pages are of the pool."""
    causes = [[1, s.rows, s.rows * cache.held(s.pages)] for s in took_s]
    fitted = fit_seconds(causes, took_s=list(took_s.values()))
    fixed_s, row_s, page_s = fitted.coefficients.tolist()
    return StepTime(fixed_s=fixed_s, row_s=row_s, page_s=page_s), fitted


def choose_shapes(
    batches: Sequence[int], *, capacity_pages: int, cache: CacheSpec, max_pages: int
) -> list[StepShape]:
    """Returns the shapes to time, the largest last.

    Args:
      batches: rows of the compiled decode steps, rising.
      capacity_pages: of an instance's pool.
      cache: how many of them a row holds.
      max_pages: along the longest row.
    """
    fullest = sorted({batches[0], batches[len(batches) // 2], batches[-1]})
    below = {most: fewer + 1 for fewer, most in itertools.pairwise(batches)}
    emptiest = [below.get(rows, rows) for rows in fullest]
    most_rows = capacity_pages // cache.held(1)
    shapes = []
    for rows in sorted({min(rows, most_rows) for rows in (*fullest, *emptiest)}):
        most = cache.reach(capacity_pages // rows, most=max_pages)
        pages = sorted({1, most})
        shapes += [StepShape(rows=rows, pages=each) for each in pages]
    return shapes


def time_shapes(
    shapes: Sequence[StepShape],
    *,
    time_one: Callable[[StepShape], float],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[StepShape, float]:
    """Returns the median seconds of each shape, timed in turns for about `FIT_S`.

    Args:
      shapes: the largest last; that one is made once more, before the others.
      time_one: makes one step and returns its seconds.
      clock: seconds.
    """
    end_s = clock() + FIT_S
    time_one(shapes[-1])  # memory of the pool that was never touched costs once
    took_s: dict[StepShape, list[float]] = {shape: [] for shape in shapes}
    for turn in range(MOST_TURNS):
        for shape in shapes:
            if turn and clock() >= end_s:
                break
            took_s[shape].append(time_one(shape))
    return {shape: float(np.median(times)) for shape, times in took_s.items()}


def measure_step_time(
    workers: Sequence[DeviceWorker],
    *,
    cache: CacheSpec,
    capacity_pages: int,
    max_pages: int,
    name: str,
) -> StepTime:
    """Times decode steps of all workers at once and fits them; after `warm_up`.

    Args:
      workers: of one model, with their pools; nothing is left in these.
      cache: how many pages a row holds.
      capacity_pages: of each pool.
      max_pages: along the longest row.
      name: of the model, for the log.
    """
    buckets = [b for b in workers[0].buckets if b.is_decode] or workers[0].buckets[:1]
    shapes = choose_shapes(
        [bucket.rows for bucket in buckets],
        capacity_pages=capacity_pages,
        cache=cache,
        max_pages=max_pages,
    )
    took_s = time_shapes(
        shapes, time_one=lambda s: time_decodes(workers, rows=s.rows, pages=s.pages)
    )
    step_time, fitted = fit_step_time(took_s, cache=cache)
    logging.info(
        "a decode step of %s takes %.3g ms, and %.3g more by row, %.3g by page; of %d "
        "that were timed, half are at most %.0f%% off, all %.0f%%",
        name,
        1e3 * step_time.fixed_s,
        1e3 * step_time.row_s,
        1e3 * step_time.page_s,
        len(took_s),
        100 * fitted.typical_error,
        100 * fitted.worst_error,
    )
    return step_time


def check_slo(
    slo_ms: float, *, step_time: StepTime, pages: int, info: EngineInfo
) -> None:
    """Refuses a time per output token that the longest request misses even alone.

    Args:
      slo_ms: the time per output token.
      step_time: of an instance.
      pages: that the longest request holds.
      info: of the model.

    Raises:
      ValueError: it does.
    """
    alone_ms = 1e3 * step_time.predict(rows=1, pages=pages)
    if not (alone_ms <= slo_ms):
        raise ValueError(
            f"tpot_slo_ms is {slo_ms:g}, but a request of {info.max_model_len} tokens "
            f"takes {alone_ms:.3g} ms per token of {info.model_name} here, even alone: "
            f"give at least {math.ceil(1.1 * alone_ms)}, a smaller max_model_len, or "
            "more devices to each instance (mesh)"
        )

"""A workload has needs of its own: its lower bound, and free repacking.

Every request is as large at the end of an epoch as if it had never waited, so both are
of the workload and no policy moves them. `run_repack` counts the instances that first
fit decreasing needs then; what arrives or grows between two epochs costs nothing, so
no fleet can do this. `repack_live` is the same for a fleet that also serves between the
epochs.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.bounds import (
    first_fit_decreasing,
    instances_bound,
    lower_bound,
)
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.price_bound import Offer, price_bound
from mell_jax.scheduler.simulator.measure import RunMeter
from mell_jax.scheduler.simulator.prefixes import most_cached
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.window import Window
from mell_jax.scheduler.simulator.workload import Workload

Array = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """These requests are alive at the end of an epoch."""

    now_s: float
    pages: dict[ModelId, Array]  # of the pool, of every request, by model
    served_requests: int  # that have ended by then
    served_tokens: int


def demands(workload: Workload, *, settings: Settings) -> Iterator[Demand]:
    """The demand at the end of every epoch, until the last request has ended.

    A request that can never fit an instance is never there.
    """
    specs = settings.models()
    limits = {model: settings.limit(model) for model in specs}
    page = settings.page_tokens
    given, made = workload.input_tokens, workload.output_tokens
    limit = np.array([limits[model] for model in workload.models])
    served = _held(-(-(given + made) // page), cache=settings.cache) <= limit
    alone = lives(workload, settings=settings)
    decode_s, end_s = alone.decode_s, alone.end_s
    model_of = np.array([list(specs).index(model) for model in workload.models])
    alive: list[tuple[float, int]] = []
    order, at, epoch = np.flatnonzero(served).tolist(), 0, 1
    requests = tokens = 0
    while at < len(order) or alive:
        now_s = epoch * settings.epoch_s
        while at < len(order) and workload.arrival_s[order[at]] <= now_s:
            heapq.heappush(alive, (float(end_s[order[at]]), order[at]))
            at += 1
        while alive and alive[0][0] <= now_s:
            ended = heapq.heappop(alive)[1]
            requests += 1
            tokens += int(given[ended] + made[ended])
        index = np.array(sorted(entry[1] for entry in alive), np.int64)
        grown = np.maximum(0, now_s - decode_s[index]) * alone.tokens_per_s[index]
        tokens_now = given[index] + grown.astype(np.int64) + 1
        along = -(-np.minimum(tokens_now, (given + made)[index]) // page)
        pages = _held(along, cache=settings.cache)
        yield Demand(
            now_s=now_s,
            pages={
                model: np.minimum(pages[model_of[index] == number], limits[model])
                for number, model in enumerate(specs)
            },
            served_requests=requests,
            served_tokens=tokens,
        )
        epoch += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lives:
    """Requests by themselves: when each decodes, how fast, until when; arrays [n]."""

    decode_s: Floats
    tokens_per_s: Floats
    end_s: Floats


def lives(workload: Workload, *, settings: Settings) -> Lives:
    """Returns how requests would live if nobody waited, each alone on an instance.

    Of several kinds each decodes as on the slowest and ends as on the fastest, so that
    none is ever smaller, or there for less long, wherever it is. What could be found of
    its prompt is not computed.
    """
    speeds = [own.speed for own in settings.offered]
    slowest = _lives(workload, settings=settings, speed=min(speeds))
    fastest = _lives(workload, settings=settings, speed=max(speeds))
    return replace(slowest, end_s=fastest.end_s)


def _lives(workload: Workload, *, settings: Settings, speed: float) -> Lives:
    """Returns how requests would live on devices of one speed."""
    found = most_cached(workload)
    given, made = workload.input_tokens - found, workload.output_tokens
    if settings.steps is None:
        rate = np.full(len(workload), settings.decode_tokens_per_s * speed)
        prefill_s = given / (settings.prefill_tokens_per_s * speed)
        decode_s = workload.arrival_s + prefill_s
        return Lives(decode_s=decode_s, tokens_per_s=rate, end_s=decode_s + made / rate)
    steps, step = settings.steps.faster(speed), settings.step_time.faster(speed)
    chunks = -(-given // steps.token_budget)
    whole_s = [
        steps.prefill_s(start=start, tokens=tokens)
        for start, tokens in zip(found.tolist(), given.tolist(), strict=True)
    ]
    decode_s = workload.arrival_s + chunks * step.fixed_s + whole_s  # with a token
    half = -(-(workload.input_tokens + made // 2) // settings.page_tokens)
    pages = _held(half, cache=settings.cache)
    token_s = step.fixed_s + step.row_s + step.page_s * pages
    return Lives(
        decode_s=decode_s,
        tokens_per_s=1 / token_s,
        end_s=decode_s + (made - 1) * token_s,
    )


def _held(pages: Array, *, cache: CacheSpec) -> Array:
    """Pages of the pool [n] of sequences of so many pages [n]."""
    held = np.zeros_like(pages)
    for group in cache.groups:
        held += pages if group.ring is None else np.minimum(pages, group.ring)
    return held


def bound_of(demand: Demand, *, settings: Settings) -> int:
    """No fleet serves the demand with fewer instances."""
    if settings.devices:  # however slow, none of them holds more than the largest
        return sum(
            lower_bound(pages, capacity=settings.limit(model))
            for model, pages in demand.pages.items()
        )
    specs = settings.models()
    return sum(
        instances_bound(pages, spec=specs[model])
        for model, pages in demand.pages.items()
    )


def price_bound_of(demand: Demand, *, settings: Settings) -> float:
    """No fleet of these devices serves the demand for less money an hour."""
    kinds = settings.kinds()
    return math.fsum(
        price_bound(
            pages,
            offers=[
                Offer(
                    spec=kinds[own.kind].models[model],
                    price_per_hour=own.price_per_hour,
                    count=own.count,
                )
                for own in settings.offered
                if model in kinds[own.kind].models
            ],
        )
        for model, pages in demand.pages.items()
    )


def window_of(workload: Workload) -> Window:
    """Means are taken from a quarter of the arrivals' span to the last arrival."""
    if not len(workload):
        return Window(start_s=0.0, end_s=0.0)
    first, last = float(workload.arrival_s[0]), float(workload.arrival_s[-1])
    return Window(start_s=first + 0.25 * (last - first), end_s=last)


def run_repack(
    workload: Workload,
    *,
    settings: Settings,
    progress: Callable[[int], None] = lambda served: None,
) -> RunMeter:
    """Packs the requests that are alive at every epoch."""
    meter = RunMeter(window=window_of(workload))
    specs = settings.models()
    limit = np.array([specs[model].capacity(1) for model in workload.models])
    tokens = workload.input_tokens + workload.output_tokens
    peak = _held(-(-tokens // settings.page_tokens), cache=settings.cache)
    meter.rejected = int((peak > limit).sum())
    now_s = 0.0
    for demand in demands(workload, settings=settings):
        now_s = demand.now_s
        meter.served_requests = demand.served_requests
        meter.served_tokens = demand.served_tokens
        _sample(meter, demand=demand, settings=settings)
        progress(meter.served_requests + meter.rejected)
    meter.count_devices(now_s, 0)
    return meter


def _sample(meter: RunMeter, *, demand: Demand, settings: Settings) -> None:
    specs = settings.models()
    devices = bound = used = room = 0
    for model, sizes in demand.pages.items():
        least = instances_bound(sizes, spec=specs[model])
        capacity = specs[model].capacity(1)
        packed = max(least, first_fit_decreasing(sizes, capacity=capacity))
        devices += packed
        room += packed * specs[model].capacity_pages
        used += int(sizes.sum())
        bound += least
    meter.count_devices(demand.now_s, devices)
    meter.sample(
        demand.now_s,
        devices=devices,
        utilization=used / room if room else 0.0,
        bound=bound,
    )

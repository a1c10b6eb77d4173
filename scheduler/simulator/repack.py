"""The other bound: everything packed anew at every epoch, moves costing nothing.

The instances of an epoch are those that first fit decreasing needs for what is alive at
its end; what arrives or grows between two epochs costs nothing either, so no fleet can
do this. `repack_live` is the same for a fleet that also serves between the epochs.
"""

import heapq
from collections.abc import Callable

import numpy as np

from mell_jax.scheduler.bounds import first_fit_decreasing, instances_bound
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.simulator.measure import RunMeter, Window
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload


def run_repack(
    workload: Workload,
    *,
    settings: Settings,
    progress: Callable[[int], None] = lambda served: None,
) -> RunMeter:
    """Packs the requests that are alive at every epoch."""
    specs = settings.models()
    page = settings.page_tokens
    given, made = workload.input_tokens, workload.output_tokens
    peak = -(-(given + made) // page)
    limit = np.array([specs[model].capacity(1) for model in workload.models])
    decode_s = workload.arrival_s + given / settings.prefill_tokens_per_s
    end_s = decode_s + made / settings.decode_tokens_per_s
    served = peak <= limit
    last = float(workload.arrival_s[-1]) if len(workload) else 0.0
    first = float(workload.arrival_s[0]) if len(workload) else 0.0
    window = Window(start_s=first + 0.25 * (last - first), end_s=last)
    meter = RunMeter(window=window)
    meter.rejected = int((~served).sum())
    model_of = np.array([list(specs).index(model) for model in workload.models])
    alive: list[tuple[float, int]] = []
    order, at, epoch = np.flatnonzero(served).tolist(), 0, 1
    while at < len(order) or alive:
        now_s = epoch * settings.epoch_s
        while at < len(order) and workload.arrival_s[order[at]] <= now_s:
            heapq.heappush(alive, (float(end_s[order[at]]), order[at]))
            at += 1
        while alive and alive[0][0] <= now_s:
            ended = heapq.heappop(alive)[1]
            meter.served_requests += 1
            meter.served_tokens += int(given[ended] + made[ended])
        index = np.array(sorted(entry[1] for entry in alive), np.int64)
        grown = np.maximum(0, now_s - decode_s[index]) * settings.decode_tokens_per_s
        tokens = np.minimum(
            given[index] + grown.astype(np.int64) + 1, (given + made)[index]
        )
        _sample(
            meter,
            now_s=now_s,
            pages=-(-tokens // page),
            model_of=model_of[index],
            models=list(specs),
            settings=settings,
        )
        progress(meter.served_requests + meter.rejected)
        epoch += 1
    meter.count_devices(now_s if epoch > 1 else 0.0, 0)
    return meter


def _sample(
    meter: RunMeter,
    *,
    now_s: float,
    pages: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    model_of: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    models: list[ModelId],
    settings: Settings,
) -> None:
    specs = settings.models()
    devices = bound = used = room = 0
    for number, model in enumerate(models):
        capacity = specs[model].capacity(1)
        sizes = np.minimum(pages[model_of == number], capacity)
        least = instances_bound(sizes, spec=specs[model])
        packed = max(least, first_fit_decreasing(sizes, capacity=capacity))
        devices += packed
        room += packed * specs[model].capacity_pages
        used += int(sizes.sum())
        bound += least
    meter.count_devices(now_s, devices)
    meter.sample(
        now_s,
        devices=devices,
        utilization=used / room if room else 0.0,
        bound=bound,
    )

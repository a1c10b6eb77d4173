"""The stage `moves` times what a request that changes devices costs its own.

    gather   pages out of the pool, into arrays of few lengths      (page_transfer.pack)
    copy     from there into the host's memory
    scatter  arrays that lie on the device, back into the pool    (page_transfer.unpack)

Each alone, then all of them behind every step of a batch that decodes: what a step
takes longer is what its requests see of the move.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np

from benchmarks.gpu.calls import decode_call, scattered_pages
from benchmarks.gpu.laps import laps
from benchmarks.gpu.rig import Rig, make_rig
from benchmarks.gpu.scale import GpuOrder
from benchmarks.kernels.figures import Figure, attempt, failure, figure
from mell_jax.bench.stats import median
from mell_jax.engine.fleet import page_transfer
from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.scheduler.ids import Pages
from mell_jax.worker.device import StepCall

MOST_PAGES = 2048  # of a lap beside decoding: 4 GiB of an 8B model go each way
Times = dict[str, list[float]]
Done = TypeVar("Done")


def moves(order: GpuOrder) -> Iterator[Figure]:
    """Measures every number of pages, alone and beside decoding."""
    scale = order.scale
    rig = make_rig(order, batches=(scale.beside,))
    page_transfer.warm_up(rig.worker)
    call = decode_call(
        rig.decode_bucket(scale.beside),
        context=scale.context,
        pool_pages=scale.pool_pages,
        seed=order.seed,
    )
    pages = scattered_pages(
        max(scale.moved_pages), pool_pages=scale.pool_pages, seed=order.seed + 1
    )
    step_s = laps([rig.worker], call, steps=scale.steps, repeats=scale.repeats).step_s
    for count in scale.moved_pages:
        yield from _alone(rig, pages[:count])
        name = f"{count} pages behind each step of {scale.beside} rows"
        beside = functools.partial(_beside, rig, call, pages[:count], step_s, name)
        yield attempt(name, beside)


def _alone(rig: Rig, pages: Pages) -> Iterator[Figure]:
    count = len(pages)
    try:
        times = _times(rig, pages)
    except RuntimeError as error:
        yield failure(f"moves of {count} pages", str(error)[:160])
        return
    amount = count * _page_bytes(rig)
    for name, laps_s in times.items():
        seconds = median(laps_s)
        yield figure(
            f"{name} {count} pages",
            amount / seconds / 1e9,
            "GB/s",
            note=f"{1e3 * seconds:.3f} ms for {amount / 2**20:.1f} MiB",
        )


def _times(rig: Rig, pages: Pages) -> Times:
    """The laps are those after the first one, which warms up."""
    times: Times = {"gather": [], "copy": [], "scatter": []}
    for _ in range(rig.scale.repeats + 1):
        transfer = _timed(times["gather"], functools.partial(_gather, rig, pages))
        _timed(times["copy"], functools.partial(_to_host, transfer))
        _timed(times["scatter"], functools.partial(_put_back, rig, transfer, pages))
    return {name: laps_s[1:] for name, laps_s in times.items()}


def _timed(laps_s: list[float], do: Callable[[], Done]) -> Done:
    start_s = time.perf_counter()
    done = do()
    laps_s.append(time.perf_counter() - start_s)
    return done


def _gather(rig: Rig, pages: Pages) -> PageTransfer:
    transfer = page_transfer.pack(rig.worker, pages)
    jax.block_until_ready(transfer.chunks)
    return transfer


def _to_host(transfer: PageTransfer) -> None:
    for chunk in transfer.chunks:
        chunk.copy_to_host_async()
    for chunk in transfer.chunks:
        np.asarray(chunk)


def _put_back(rig: Rig, transfer: PageTransfer, pages: Pages) -> None:
    page_transfer.unpack(rig.worker, transfer, pages)
    jax.block_until_ready(rig.worker.pool)


def _beside(rig: Rig, call: StepCall, pages: Pages, step_s: float, name: str) -> Figure:
    """A lap is of steps; behind each, pages leave for the host, and come back."""
    worker = rig.worker
    steps = max(1, min(rig.scale.steps, MOST_PAGES // len(pages)))
    took: list[float] = []
    for _ in range(rig.scale.repeats):
        before = worker.dispatch(call)
        start_s = time.perf_counter()
        for _ in range(steps):
            transfer = page_transfer.pack(worker, pages)
            pending = worker.dispatch(call)
            before.tokens()
            _to_host(transfer)
            page_transfer.unpack(worker, transfer, pages)
            before = pending
        before.tokens()
        took.append((time.perf_counter() - start_s) / steps)
    added_s = median(took) - step_s
    return figure(
        name,
        1e3 * added_s,
        "ms a step more",
        ratio=step_s / median(took),
        note=f"its speed beside moves over {1e3 * step_s:.3f} ms alone",
    )


def _page_bytes(rig: Rig) -> int:
    pool = rig.worker.pool
    return int(pool.nbytes) // int(pool.shape[0])

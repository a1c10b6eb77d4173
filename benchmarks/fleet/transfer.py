"""Times pages from pool to pool: the whole way, its parts, and a bare `device_put`.

    gather on the source -> device_put -> scatter into the target's pool

All of the parts are timed to their end. The bare copy is of one array of as many bytes;
between two instances on one device there is nothing to copy, so that it is compared
with a copy that jax is made to do (`jnp.copy`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fleet.harness import FleetHarness
from mell_jax.bench.stats import median
from mell_jax.engine.fleet import page_transfer
from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.scheduler.ids import DeviceGroupId, Pages
from mell_jax.worker.device import DeviceWorker

SOURCE, TARGET = DeviceGroupId(0), DeviceGroupId(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The figures are medians for `bytes`, in milliseconds."""

    bytes: int
    pages: int
    is_one_device: bool  # nothing to transfer then, only to copy
    gather_ms: float
    put_ms: float
    scatter_ms: float
    whole_ms: float
    bare_ms: float
    ratio: float  # bare / whole: 1 is as fast as a bare copy


def measure_transfer(
    harness: FleetHarness, *, size_bytes: int, repeats: int
) -> Transfer:
    """Moves pages of `size_bytes` (less, if the pools are smaller) between instances.

    The instances must be parked.
    """
    source, target = harness.workers[SOURCE], harness.workers[TARGET]
    for worker in (source, target):
        worker.unpark()
        worker.wait_ready()
    pages = _pages(harness, size_bytes=size_bytes)
    count = len(pages)
    bare = jnp.repeat(page_transfer.pack(source, pages[:1]).chunks[0], count, axis=0)
    bare = jax.device_put(bare, source.group.pool_sharding)
    jax.block_until_ready(bare)
    is_one = source.group.devices == target.group.devices
    laps: dict[str, list[float]] = {
        name: [] for name in ("gather", "put", "scatter", "whole", "bare")
    }
    for _ in range(repeats + 1):
        _turn(source, target, pages, bare=bare, is_one=is_one, laps=laps)
    for worker in (source, target):
        worker.park(keeps_weights=True)
    laps = {name: values[1:] for name, values in laps.items()}  # the first warms up
    ms = {name: 1e3 * median(values) for name, values in laps.items()}
    pairs = list(zip(laps["bare"], laps["whole"], strict=True))
    return Transfer(
        bytes=bare.nbytes,
        pages=count,
        is_one_device=is_one,
        gather_ms=ms["gather"],
        put_ms=ms["put"],
        scatter_ms=ms["scatter"],
        whole_ms=ms["whole"],
        bare_ms=ms["bare"],
        ratio=median([bare_s / whole_s for bare_s, whole_s in pairs]),
    )


def _turn(
    source: DeviceWorker,
    target: DeviceWorker,
    pages: Pages,
    *,
    bare: jax.Array,
    is_one: bool,
    laps: dict[str, list[float]],
) -> None:
    """Each of them once, one after the other."""
    sharding = target.group.pool_sharding

    def lap(
        name: str, do: Callable[[], PageTransfer | jax.Array]
    ) -> PageTransfer | jax.Array:
        start_s = time.perf_counter()
        done = do()
        jax.block_until_ready(done.chunks if isinstance(done, PageTransfer) else done)
        laps[name].append(time.perf_counter() - start_s)
        return done

    def put(transfer: PageTransfer | jax.Array) -> PageTransfer:
        assert isinstance(transfer, PageTransfer)
        chunks = tuple(jax.device_put(chunk, sharding) for chunk in transfer.chunks)
        return PageTransfer(chunks=chunks, places=transfer.places)

    def unpack(transfer: PageTransfer | jax.Array) -> jax.Array:
        assert isinstance(transfer, PageTransfer)
        page_transfer.unpack(target, transfer, pages)
        return target.pool

    lap("bare", lambda: jnp.copy(bare) if is_one else jax.device_put(bare, sharding))
    lap("whole", lambda: unpack(put(page_transfer.pack(source, pages))))
    packed = lap("gather", lambda: page_transfer.pack(source, pages))
    there = lap("put", lambda: put(packed))
    lap("scatter", lambda: unpack(there))


def _pages(harness: FleetHarness, *, size_bytes: int) -> Pages:
    """Pages that lie scattered in the pool, as those of a request do."""
    most = harness.spec.capacity_pages
    count = max(1, min(most, round(size_bytes / harness.spec.page_bytes)))
    ids = np.random.default_rng(0).permutation(most)[:count] + 1
    return ids.astype(np.int32)

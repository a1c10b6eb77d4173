"""Finds the sizes of the Triton kernels that are fastest on this device.

Blocks, warps and stages are tried on the first load, where splits matter least; the
best few of them then with every number of splits on the other loads.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.kernels import timing
from benchmarks.kernels.figures import (
    FAILURES,
    Figure,
    attempt,
    figure,
    ratio_of,
    short,
)
from benchmarks.kernels.loads import GROUP, HEAD, KernelScale, Load, TuningGrid
from benchmarks.kernels.timing import Timer
from mell_jax.pallas_kernels.attention.backends import body
from mell_jax.pallas_kernels.attention.tuning import TritonSizes

SPLITS = (1, 2, 4, 8, 16, 32)
Laps = list[tuple[float, TritonSizes]]


def tune(
    scale: KernelScale,
    *,
    timer: Timer,
    seed: int,
    copy: float | None,
    interpret: bool = False,
) -> Iterator[Figure]:
    """Yields a figure with the fastest sizes for each load; what does not compile
    loses.

    Args:
      copy: GB/s of a copy, to compare decode with.
      interpret: the kernels run by their interpreter, on any platform.
    """
    race = functools.partial(_race, timer=timer, seed=seed, interpret=interpret)
    tried = list(decode_candidates(scale.grid))
    for load in scale.decode:
        laps: Laps = []
        run = functools.partial(race, load, tried, laps, copy)
        yield attempt(f"best for {load.name}", run)
        if load is scale.decode[0] and laps:
            kept = [sizes for _, sizes in sorted(laps, key=_seconds)[: scale.grid.kept]]
            tried = [replace(s, num_splits=n) for s in kept for n in SPLITS]
    name, candidates = (
        f"best for {scale.prefill.name}",
        list(prefill_candidates(scale.grid)),
    )
    yield attempt(name, lambda: race(scale.prefill, candidates, [], None))


def decode_candidates(grid: TuningGrid) -> Iterator[TritonSizes]:
    """Yields sizes for one token per row, which is not split."""
    for block, warps, stages in itertools.product(grid.blocks, grid.warps, grid.stages):
        yield TritonSizes(
            tile_tokens=1,
            rows=16,
            block_tokens=block,
            num_splits=1,
            num_warps=warps,
            num_stages=stages,
        )


def prefill_candidates(grid: TuningGrid) -> Iterator[TritonSizes]:
    """Yields sizes for tiles of many tokens."""
    for rows, block, warps, stages in itertools.product(
        grid.rows, grid.blocks, grid.warps, grid.stages
    ):
        yield TritonSizes(
            tile_tokens=rows // GROUP,
            rows=rows,
            block_tokens=block,
            num_splits=1,
            num_warps=warps,
            num_stages=stages,
        )


def _race(
    load: Load,
    tried: Sequence[TritonSizes],
    laps: Laps,  # filled with those that ran
    copy: float | None,
    *,
    timer: Timer,
    seed: int,
    interpret: bool,
) -> Figure:
    inputs = timing.attention_inputs(load, kv_dtype=jnp.bfloat16, seed=seed)
    why = ""
    for sizes in tried:
        try:
            attend = _with_sizes(load, sizes, interpret=interpret)
            laps.append((timing.attention_seconds(timer, inputs, attend), sizes))
        except FAILURES as error:  # too much shared memory, most likely
            why = short(error)
    if not laps:
        raise RuntimeError(f"none of {len(tried)} sizes ran; the last one: {why}")
    seconds, best = min(laps, key=_seconds)
    note = json.dumps(asdict(best))
    name = f"best for {load.name}"
    if not load.is_decode:
        return figure(name, load.flops / 1e12 / seconds, "TFLOP/s", note=note)
    rate = load.kv_bytes(2) / 1e9 / seconds
    return figure(
        name, rate, "GB/s of KV", ratio=ratio_of(rate, copy), goal=0.85, note=note
    )


def _seconds(lap: tuple[float, TritonSizes]) -> float:
    return lap[0]


def _with_sizes(load: Load, sizes: TritonSizes, *, interpret: bool) -> timing.Attend:
    kind = jax.devices()[0].device_kind

    def attend(q: jax.Array, pool: Any, **metadata: jax.Array) -> jax.Array:
        return body("triton")(
            q,
            pool,
            sm_scale=HEAD**-0.5,
            window=None,
            soft_cap=None,
            decode=load.is_decode,
            device_kind=kind,
            interpret=interpret,
            sizes=sizes,
            **metadata,
        )

    return attend

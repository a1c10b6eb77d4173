"""Each stage here times whole steps.

speed   decode and prefill, as parts of what the device could do at best
worth   a step of a cut model under flags of XLA, against one without them
"""

import functools
from collections.abc import Iterator

import numpy as np

from benchmarks.gpu.calls import decode_call, prefill_calls
from benchmarks.gpu.laps import laps, sequence_s
from benchmarks.gpu.rig import Rig, make_rig
from benchmarks.gpu.roofline import Cost, decode_cost, prefill_cost, speeds_of
from benchmarks.gpu.scale import GpuOrder
from benchmarks.kernels.figures import Figure, attempt, figure
from mell_jax.bench.stats import median

GOAL = 0.8  # of the roofline, for every batch


def speed(order: GpuOrder) -> Iterator[Figure]:
    """Measures tokens per second of every batch and prompt."""
    scale = order.scale
    rig = make_rig(order, batches=scale.batches, prefills=True)
    for rows in scale.batches:
        name = f"decode {rows} x {scale.context}"
        yield attempt(name, functools.partial(_decode, rig, order, rows, name))
    for tokens in scale.prompts:
        name = f"prefill {tokens}"
        yield attempt(name, functools.partial(_prefill, rig, order, tokens, name))


def best_share(rig: Rig, cost: Cost, *, took_s: float) -> float | None:
    """Returns the part of the roofline; None for a device that has none."""
    speeds = speeds_of(rig.device_kind)
    return None if speeds is None else cost.seconds(speeds) / took_s


def _decode(rig: Rig, order: GpuOrder, rows: int, name: str) -> Figure:
    scale = rig.scale
    step_s = _step_s(rig, order, rows=rows)
    cost = decode_cost(
        rig.model, rows=rows, context=scale.context, number_bytes=rig.number_bytes
    )
    return figure(
        name,
        rows / step_s,
        "tokens/s",
        ratio=best_share(rig, cost, took_s=step_s),
        goal=GOAL,
        note=f"of the roofline; {1e3 * step_s:.3f} ms a step",
    )


def _prefill(rig: Rig, order: GpuOrder, tokens: int, name: str) -> Figure:
    scale = rig.scale
    rng = np.random.default_rng(order.seed)
    calls = prefill_calls(
        rig.chunk_bucket(),
        prompt=rng.integers(0, rig.model.vocab_size, tokens, dtype=np.int32),
        pool_pages=scale.pool_pages,
        scratch_slot=rig.worker.scratch_slot,
        seed=order.seed,
    )
    sequence_s(rig.worker, calls)
    took_s = median([sequence_s(rig.worker, calls) for _ in range(scale.repeats)])
    cost = prefill_cost(
        rig.model, tokens=tokens, chunk=scale.chunk, number_bytes=rig.number_bytes
    )
    return figure(
        name,
        tokens / took_s,
        "tokens/s",
        ratio=best_share(rig, cost, took_s=took_s),
        note=f"of the roofline; {1e3 * took_s:.1f} ms in steps of {scale.chunk}",
    )


def worth(order: GpuOrder) -> Iterator[Figure]:
    """Measures a step under the flags that this process was given."""
    scale = order.scale
    name = (
        f"decode {scale.beside} x {scale.context}, {scale.cut_layers} layers, "
        f"{order.label}"
    )

    def one() -> Figure:
        rig = make_rig(order, batches=(scale.beside,), layers=scale.cut_layers)
        milliseconds = 1e3 * _step_s(rig, order, rows=scale.beside)
        ratio = None if order.base_ms is None else order.base_ms / milliseconds
        return figure(name, milliseconds, "ms", ratio=ratio, note="of its speed before")

    yield attempt(name, one)


def _step_s(rig: Rig, order: GpuOrder, *, rows: int) -> float:
    scale = rig.scale
    call = decode_call(
        rig.decode_bucket(rows),
        context=scale.context,
        pool_pages=scale.pool_pages,
        seed=order.seed,
    )
    done = laps([rig.worker], call, steps=scale.steps, repeats=scale.repeats)
    return done.step_s

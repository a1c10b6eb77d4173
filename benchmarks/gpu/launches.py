"""Each stage here says what the host has to do for a step.

thunks     which executables make the host wait for a predicate
dispatch   host seconds of a step beside the device's
sharing    two instances on one device: together, and alone
"""

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.calls import decode_call
from benchmarks.gpu.laps import device_step_s, idle_dispatch_s, laps
from benchmarks.gpu.rig import Rig, make_rig, make_whole
from benchmarks.gpu.scale import GpuOrder
from benchmarks.kernels.figures import Figure, attempt, failure, figure, short
from benchmarks.kernels.thunks import (
    Program,
    kinds_outside,
    num_kernels,
    read_dump,
    waits,
)
from mell_jax.engine.fleet import page_transfer
from mell_jax.worker.device import StepCall

LARGE_COPY_BYTES = 2**20
PROGRAMS = (  # what the engine compiles, as XLA names it
    *(
        "jit_forward",
        "jit_prompt_logprobs",
        "jit_program",
        "jit__edit",
        "jit_apply_mask",
        "jit__filter",
        "jit__processed",
    ),
    *("jit__count", "jit_token_logprobs", "jit_set_row", "jit_observe_tokens"),
    *("jit__gather", "jit_gather_pages", "jit_scatter_pages", "jit_checksum_pages"),
)


def thunks(order: GpuOrder) -> Iterator[Figure]:
    """Compiles everything that an engine runs; `thunk_figures` reads how it starts.

    XLA must have been told to leave its thunks in the order's folder. What is compiled
    is kept for the stages that follow.
    """

    def start() -> Figure:
        start_s = time.perf_counter()
        worker = make_whole(order)
        page_transfer.warm_up(worker)
        return figure(
            "drawing weights, compiling and running every program",
            time.perf_counter() - start_s,
            "s",
            note=f"{len(worker.buckets)} forward passes among them",
        )

    yield attempt("every program", start)


def thunk_figures(folder: Path) -> Iterator[Figure]:
    """Yields the launches of each program of ours that left its thunks in a folder."""
    try:
        found = read_dump(folder)
    except OSError as error:  # its process ended amid writing
        yield failure("launches", short(error))
        return
    ours = [one for one in found if one.name.partition(".")[2] in PROGRAMS]
    if not ours:
        yield failure("launches", "XLA left no thunks: it does for a GPU alone")
        return
    yield from (thunk_figure(program) for program in ours)
    count = sum(len(waits(program.thunks)) > 0 for program in ours)
    yield figure(
        "programs for which the host waits",
        count,
        f"of {len(ours)}",
        ratio=float(count == 0),
        goal=1.0,
    )


def thunk_figure(program: Program) -> Figure:
    """Returns how much the host starts for a program; short of its goal if it waits."""
    outside = kinds_outside(program.thunks)
    starts = ", ".join(f"{n} {kind}" for kind, n in sorted(outside.items()))
    copies = program.copies(at_least=LARGE_COPY_BYTES)
    note = f"{starts}; {num_kernels(program.thunks)} kernels"
    if copies:
        largest = max(copies.values()) / 2**20
        note += f"; {len(copies)} large copies, of up to {largest:.0f} MiB"
    return figure(
        f"launches of {program.name}",
        sum(outside.values()),
        "thunks",
        ratio=float(not waits(program.thunks)),
        goal=1.0,
        note=note,
    )


def dispatch(order: GpuOrder) -> Iterator[Figure]:
    """Measures the host's part of a step, for each batch."""
    rig = make_rig(order, batches=order.scale.batches)
    for rows in order.scale.batches:
        yield from _dispatch(rig, _decode(rig, order, rows))


def _dispatch(rig: Rig, call: StepCall) -> Iterator[Figure]:
    scale, worker = rig.scale, rig.worker
    name = f"decode {call.bucket.rows} x {scale.context}"
    known: dict[str, float] = {}

    def device() -> Figure:
        known["device"] = device_step_s(worker, call, steps=scale.steps)
        return figure(f"{name}, steps sent at once", 1e3 * known["device"], "ms a step")

    def idle() -> Figure:
        seconds = idle_dispatch_s(worker, call, steps=scale.steps)
        return figure(f"{name}, dispatch to an idle device", 1e3 * seconds, "ms")

    def full() -> Figure:
        done = laps([worker], call, steps=scale.steps, repeats=scale.repeats)
        ratio = known["device"] / done.dispatch_s if "device" in known else None
        note = f"step over dispatch; a step takes {1e3 * done.step_s:.3f} ms"
        return figure(
            f"{name}, dispatch to a busy device",
            1e3 * done.dispatch_s,
            "ms",
            ratio=ratio,
            goal=1.0,
            note=note,
        )

    for what, measure in (("at once", device), ("idle", idle), ("busy", full)):
        yield attempt(f"{name}, {what}", measure)


def sharing(order: GpuOrder) -> Iterator[Figure]:
    """Measures two instances on one device, for all but the largest batch."""
    scale = order.scale
    batches = scale.batches[:-1]
    rig = make_rig(order, batches=batches, instances=2)
    for rows in batches:
        call = _decode(rig, order, rows)
        yield from _sharing(rig, call)


def _sharing(rig: Rig, call: StepCall) -> Iterator[Figure]:
    scale = rig.scale
    name = f"decode {call.bucket.rows} x {scale.context}"
    alone = laps([rig.worker], call, steps=scale.steps, repeats=scale.repeats)
    both = laps(rig.workers, call, steps=scale.steps, repeats=scale.repeats)
    yield figure(f"{name}, one instance", 1e3 * alone.step_s, "ms a step of each")
    yield figure(
        f"{name}, two instances",
        1e3 * both.step_s,
        "ms a step of each",
        ratio=2 * alone.step_s / both.step_s,
        goal=0.95,
        note="twice a step alone over a step of both: 1 is no loss, 2 is for nothing",
    )
    yield figure(
        f"{name}, dispatch while the other runs",
        1e3 * both.dispatch_s,
        "ms",
        note=f"{1e3 * alone.dispatch_s:.3f} ms alone",
    )


def _decode(rig: Rig, order: GpuOrder, rows: int) -> StepCall:
    return decode_call(
        rig.decode_bucket(rows),
        context=order.scale.context,
        pool_pages=order.scale.pool_pages,
        seed=order.seed,
    )

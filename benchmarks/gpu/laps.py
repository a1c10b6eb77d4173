"""Sends steps to workers and times them on the host's clock.

    wait for nothing in flight | dispatch, dispatch, wait, dispatch, wait, ... | wait

One step is in flight while the next one is sent, as in an engine.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mell_jax.bench.stats import median
from mell_jax.worker.device import DeviceWorker, Pending, StepCall


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLaps:
    """The laps are medians, in seconds."""

    step_s: float  # from one step's tokens to the next one's
    dispatch_s: float  # of the host, inside `dispatch`, a step in flight


def lap(workers: Sequence[DeviceWorker], call: StepCall, *, steps: int) -> StepLaps:
    """Returns the seconds of a step of each of the workers, in turns.

    A step's seconds are those of all workers together. Nothing may be in flight, and
    nothing is afterwards.
    """
    inside: list[float] = []

    def send(worker: DeviceWorker) -> Pending:
        start_s = time.perf_counter()
        pending = worker.dispatch(call)
        inside.append(time.perf_counter() - start_s)
        return pending

    before = [send(worker) for worker in workers]
    for number, pending in enumerate(before):  # the clock starts amid the steady state
        before[number] = send(workers[number])
        pending.tokens()
    inside.clear()
    start_s = time.perf_counter()
    for _ in range(steps):
        for number, worker in enumerate(workers):
            pending, before[number] = before[number], send(worker)
            pending.tokens()
    took_s = time.perf_counter() - start_s
    for pending in before:
        pending.tokens()
    return StepLaps(step_s=took_s / steps, dispatch_s=median(inside))


def laps(
    workers: Sequence[DeviceWorker], call: StepCall, *, steps: int, repeats: int
) -> StepLaps:
    """Returns medians of `repeats` laps after one that warms up."""
    lap(workers, call, steps=min(steps, 3))
    done = [lap(workers, call, steps=steps) for _ in range(repeats)]
    return StepLaps(
        step_s=median([one.step_s for one in done]),
        dispatch_s=median([one.dispatch_s for one in done]),
    )


def idle_dispatch_s(worker: DeviceWorker, call: StepCall, *, steps: int) -> float:
    """Returns the seconds inside `dispatch` when the device has nothing to do."""
    inside = []
    for _ in range(steps):
        start_s = time.perf_counter()
        pending = worker.dispatch(call)
        inside.append(time.perf_counter() - start_s)
        pending.tokens()
    return median(inside)


def device_step_s(worker: DeviceWorker, call: StepCall, *, steps: int) -> float:
    """Returns the seconds of a step when all are sent at once and awaited at the end.

    Where the host sends faster than the device works, they are the device's alone.
    """
    worker.dispatch(call).tokens()
    start_s = time.perf_counter()
    sent = [worker.dispatch(call) for _ in range(steps)]
    sent[-1].tokens()
    return (time.perf_counter() - start_s) / steps


def sequence_s(worker: DeviceWorker, calls: Sequence[StepCall]) -> float:
    """Returns the seconds from the first of these steps to the last one's tokens."""
    start_s = time.perf_counter()
    before: Pending | None = None
    for call in calls:
        pending = worker.dispatch(call)
        if before is not None:
            before.tokens()
        before = pending
    assert before is not None, "there is nothing to send"
    before.tokens()
    return time.perf_counter() - start_s

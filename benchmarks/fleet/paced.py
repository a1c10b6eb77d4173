"""Gives devices a pace: a step's results are not there before its time has passed.

    dispatch ---- the real step -----> its results
             '--- as long as the profile says ----> they can be seen

So the engine runs for real, with a real model, on devices that do not share cores: a
machine with few of these can have a fleet. A device makes one step after the other. The
clock is the wall's, or one that goes on only while the engine waits.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import final

import jax
import numpy as np
import numpy.typing as npt

from benchmarks.engine.timers import replaced
from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.fleet.transport import Transport
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.simulator.profile import Profile
from mell_jax.worker.device import DeviceWorker, FetchedLogprobs, Pending, StepCall
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.layout import StepInputs, part_shapes

Int32Array = npt.NDArray[np.int32]


@contextlib.contextmanager
def paced(
    workers: Iterable[DeviceWorker], *, pace: Profile, now_s: Callable[[], float]
) -> Iterator[None]:
    """Has steps of `workers` take as long as `pace` says, by this clock, in the block.

    By the wall's clock they take longer where they do so anyway.
    """
    with contextlib.ExitStack() as stack:
        for worker in workers:
            device = _PacedDevice(worker.dispatch, pace=pace, now_s=now_s)
            stack.enter_context(replaced(worker, "dispatch", device.dispatch))
        yield


@contextlib.contextmanager
def opened_at_once(workers: Iterable[DeviceWorker]) -> Iterator[None]:
    """Has workers that are unparked be ready when `unpark` returns, in the block."""
    with contextlib.ExitStack() as stack:
        for worker in workers:
            stack.enter_context(replaced(worker, "unpark", _until_ready(worker)))
        yield


def _until_ready(worker: DeviceWorker) -> Callable[[], None]:
    unpark = worker.unpark

    def unpark_and_wait() -> None:
        unpark()
        worker.wait_ready()

    return unpark_and_wait


@final
class CarriedAtOnce:
    """A transport whose pages have arrived when it returns."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    def carry(
        self,
        transfer: PageTransfer,
        *,
        source: DeviceGroupId,
        target: DeviceGroupId,
        to: DeviceGroup,
    ) -> PageTransfer:
        carried = self._inner.carry(transfer, source=source, target=target, to=to)
        jax.block_until_ready(carried.chunks)
        return carried


def step_s(call: StepCall, *, pace: Profile) -> float:
    """Returns the seconds that a step takes on a device of this pace."""
    sizes = [math.prod(shape) for shape in part_shapes(call.bucket)]
    inputs = StepInputs(*np.split(call.vector, np.cumsum(sizes)[:-1]))
    lengths = np.diff(inputs.cu_q_lens)
    held = inputs.kv_lens[lengths == 1]
    prefill_s = sum(
        pace.prefill_s(start=int(end - length), tokens=int(length))
        for length, end in zip(lengths, inputs.kv_lens, strict=True)
        if length > 1
    )
    pages = int((-(-held // pace.page_tokens)).sum())
    return pace.decode_s(rows=len(held), pages=pages) + prefill_s


@final
class _PacedDevice:
    """A device that is free again once all of its steps have taken their time."""

    def __init__(
        self,
        dispatch: Callable[[StepCall], Pending],
        *,
        pace: Profile,
        now_s: Callable[[], float],
    ) -> None:
        self._dispatch = dispatch
        self._pace = pace
        self._now_s = now_s
        self._free_s = 0.0

    def dispatch(self, call: StepCall) -> "PacedPending":
        begins_s = max(self._now_s(), self._free_s)
        self._free_s = begins_s + step_s(call, pace=self._pace)
        real = self._dispatch(call)
        return PacedPending(real, due_s=self._free_s, now_s=self._now_s)


@final
class PacedPending:
    """The results of a step are here once both it and its time are over."""

    def __init__(
        self, real: Pending, *, due_s: float, now_s: Callable[[], float]
    ) -> None:
        self.due_s = due_s
        self._real = real
        self._now_s = now_s

    @property
    def is_ready(self) -> bool:
        return self._now_s() >= self.due_s and self._real.is_ready

    def wait(self) -> None:
        """Waits for the step, and for its time where that goes on by itself."""
        while (left_s := self.due_s - self._now_s()) > 0:
            time.sleep(left_s)
        self._real.wait()

    def tokens(self) -> Int32Array:
        self.wait()
        return self._real.tokens()

    def logprobs(self) -> FetchedLogprobs | None:
        return self._real.logprobs()

    def prompt_logprobs(self, at: Int32Array) -> FetchedLogprobs:
        return self._real.prompt_logprobs(at)

"""A clock of devices goes from result to result; devices have a pace of their own."""

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.fleet.paced import PacedPending, step_s
from benchmarks.fleet.timeline import EventTime, TimelyArrivals, WallTime
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.device import StepCall
from mell_jax.worker.layout import Bucket, new_vector
from tests.benchmarks.fleet.test_fidelity import PACE

A, B = DeviceGroupId(0), DeviceGroupId(1)


def pending(clock: EventTime | WallTime, *, due_s: float) -> PacedPending:
    real: Any = SimpleNamespace(is_ready=True, wait=lambda: None)
    return PacedPending(real, due_s=due_s, now_s=clock.now_s)


def test_the_time_goes_on_to_the_first_result() -> None:
    clock = EventTime()
    late, soon = pending(clock, due_s=3.0), pending(clock, due_s=2.0)
    clock.wait({A: late, B: soon}, most_s=9.0)
    assert clock.now_s() == 2.0
    assert soon.is_ready and not late.is_ready


def test_the_time_goes_on_to_the_next_request_or_by_what_is_asked() -> None:
    clock = EventTime()
    clock.due_s = 1.5
    clock.wait({A: pending(clock, due_s=3.0)}, most_s=9.0)
    assert clock.now_s() == 1.5
    clock.due_s = math.inf
    clock.wait({}, most_s=0.25)
    assert clock.now_s() == 1.75
    clock.wait_until(1.0)
    assert clock.now_s() == 1.75


def test_a_result_without_a_pace_is_our_own_mistake() -> None:
    real: Any = SimpleNamespace(is_ready=True)
    with pytest.raises(AssertionError, match="has no pace"):
        EventTime().wait({A: real}, most_s=1.0)


def test_nobody_waits_longer_than_until_the_next_request() -> None:
    waited_s: list[float] = []
    inner: Any = SimpleNamespace(
        wait=lambda results, *, most_s: waited_s.append(most_s)
    )
    clock = EventTime()
    clock.wait_until(2.0)
    arrivals = TimelyArrivals(inner, timeline=clock)
    for due_s in (2.5, 9.0, 1.0):
        clock.due_s = due_s
        arrivals.wait({}, most_s=4.0)
    assert waited_s == [0.5, 4.0, 0.0]


def test_by_the_walls_clock_a_step_takes_its_time() -> None:
    clock = WallTime()
    start_s = time.perf_counter()
    step = pending(clock, due_s=clock.now_s() + 0.05)
    assert not step.is_ready
    step.wait()
    assert step.is_ready
    assert time.perf_counter() - start_s >= 0.05


def test_a_step_takes_what_its_rows_pages_and_prompts_do() -> None:
    bucket = Bucket(tokens=32, rows=4, pages=8, is_decode=False)
    vector, inputs = new_vector(bucket)
    inputs.kv_lens[:3] = [17, 16, 40]  # 2 pages, 1 page, and a prompt
    inputs.cu_q_lens[:] = [0, 1, 2, 12, 12]  # of which 10 tokens come after 30
    call = StepCall(bucket=bucket, vector=vector, rows=np.zeros((1, 4), np.int32))
    decode_s = 0.02 + 2 * 0.001 + 3 * 0.0005
    prefill_s = 10 * 0.0002 + (10 * 30 + 55) * 0.0001 / 1000
    assert step_s(call, pace=PACE) == pytest.approx(decode_s + prefill_s)

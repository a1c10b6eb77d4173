"""What requests ask of a device, by arithmetic."""

import numpy as np
import pytest

from mell_jax.planner.load import (
    Slo,
    busiest,
    fluid_instances,
    held_by,
    least_s,
    lone_tpot_s,
    lone_ttft_s,
    work_s,
)
from tests.planner.small import profile, workload


def test_a_lone_prompt_takes_its_steps_and_its_tokens() -> None:
    load = workload(arrival_s=[0, 0], given=[100, 101], made=[1, 1])
    times = lone_ttft_s(load, profile=profile())
    assert times == pytest.approx([0.010 + 0.100, 2 * 0.010 + 0.101])


def test_a_lone_row_decodes_a_step_for_each_token() -> None:
    load = workload(arrival_s=[0], given=[150], made=[20])  # 10 pages in the middle
    assert lone_tpot_s(load, profile=profile()) == pytest.approx([0.012])


def test_the_least_bound_is_that_of_the_share_that_has_to_be_kept() -> None:
    times, held = np.arange(1.0, 101.0), np.ones(100, bool)
    slo = Slo(ttft_s=1, tpot_s=1, attainment=0.99)
    assert least_s(times, held=held, slo=slo) == 99
    held[:1] = False
    assert least_s(times, held=held, slo=slo) == 100
    held[:2] = False
    assert least_s(times, held=held, slo=slo) == np.inf


def test_a_request_is_held_if_all_its_pages_are() -> None:
    load = workload(arrival_s=[0, 0], given=[1590, 1590], made=[10, 11])
    assert held_by(load, profile=profile()).tolist() == [True, False]


def test_work_is_what_a_request_adds_to_steps() -> None:
    load = workload(arrival_s=[0], given=[150], made=[20])
    assert work_s(load, profile=profile()) == pytest.approx([0.150 + 20 * 0.002])


def test_a_fluid_needs_what_its_work_and_its_memory_need() -> None:
    # Ten a second, each 190 ms of work; at 100 ms a step a tenth goes to the steps.
    load = workload(
        arrival_s=[n / 10 for n in range(100)], given=[150] * 100, made=[20] * 100
    )
    needed = fluid_instances(load, profile=profile(), tpot_s=0.1, span_s=10)
    assert needed == pytest.approx(1.9 / 0.9, abs=0.01)
    # 200 rows a second of 160 tokens, each there for 20 ms at least: 640 tokens.
    tight = profile(capacity_tokens=64)
    needed = fluid_instances(load, profile=tight, tpot_s=0.02, span_s=10)
    assert needed > 640 / 64 * 0.5


def test_no_number_of_instances_makes_a_step_faster() -> None:
    load = workload(arrival_s=[0], given=[10], made=[10])
    assert fluid_instances(load, profile=profile(), tpot_s=0.01, span_s=1) == np.inf


def test_the_busiest_stretch_has_the_most_work() -> None:
    sizes = [10] * 40 + [100] * 10 + [10] * 50
    load = workload(
        arrival_s=[float(n) for n in range(100)], given=sizes, made=[1] * 100
    )
    begin_s, end_s = busiest(load, profile=profile(), most_requests=10)
    assert begin_s == 40.0
    assert end_s == pytest.approx(49.9)
    whole = busiest(load, profile=profile(), most_requests=100)
    assert whole[0] == 0.0 and 99 < whole[1] < 99.001
    assert len(load.between(*whole)) == 100


def test_bounds_and_shares_are_positive() -> None:
    with pytest.raises(ValueError, match="ttft_s must be > 0, got 0"):
        Slo(ttft_s=0, tpot_s=1)
    with pytest.raises(ValueError, match=r"attainment must be in \(0, 1\], got 1.5"):
        Slo(ttft_s=1, tpot_s=1, attainment=1.5)

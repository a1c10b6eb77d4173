"""One simulated fleet, and what it says of a load that can be done in the head."""

import pytest

from mell_jax.planner.load import Slo, lone_tpot_s, lone_ttft_s
from mell_jax.planner.trial import Task, Trial, run_trial
from mell_jax.scheduler.simulator.workload import Workload
from tests.planner.small import profile, workload


def trial(load: Workload, *, fleet: tuple[int, ...] = (1,), **others: object) -> Trial:
    values: dict[str, object] = {
        "workload": load,
        "profiles": (profile("A"), profile("B", speed=2.0))[: len(fleet)],
        "prices": (1.0, 2.0)[: len(fleet)],
        "fleet": fleet,
        "fills": (1.0,) * len(fleet),
        "policy": "spread",
        "headroom": 0.0,
        "slo": Slo(ttft_s=1.0, tpot_s=0.1, attainment=0.5),
    }
    return run_trial(Task(**(values | others)))  # type: ignore[arg-type]


def test_a_lone_request_is_as_fast_as_arithmetic_says() -> None:
    load = workload(arrival_s=[0.5], given=[250], made=[41])
    measured = trial(load)
    (ttft_s,) = lone_ttft_s(load, profile=profile())
    (tpot_s,) = lone_tpot_s(load, profile=profile())
    assert measured.ttft_p50_s == pytest.approx(ttft_s)  # 3 steps and 250 tokens
    assert measured.ttft_p50_s == pytest.approx(0.280)
    assert measured.tpot_p50_s == pytest.approx(tpot_s, rel=0.02)  # whole pages
    assert measured.is_met and measured.within_share == 1.0


def test_what_an_instance_cannot_hold_is_not_within() -> None:
    load = workload(arrival_s=[0, 1, 2], given=[100, 1590, 100], made=[11, 11, 11])
    measured = trial(load)
    assert (measured.rejected, measured.within_share) == (1, pytest.approx(2 / 3))
    assert measured.is_met  # half of them is asked for
    strict = Slo(ttft_s=1.0, tpot_s=0.1, attainment=0.7)
    assert not trial(load, slo=strict).is_met


def test_instances_are_as_full_as_is_asked() -> None:
    load = workload(arrival_s=[0, 0], given=[320, 320], made=[100, 100])
    full, half = (
        trial(load, fleet=(2,), fills=(fill,), policy="pinned_best_fit")
        for fill in (1.0, 0.5)
    )
    assert max(full.instances) == 1 and max(half.instances) == 2


def test_each_kind_is_as_fast_as_its_profile() -> None:
    """The first request goes to the first kind, the second to the other one."""
    load = workload(arrival_s=[0, 0], given=[250, 250], made=[41, 41])
    measured = trial(load, fleet=(1, 1))
    assert measured.ttft_p50_s == pytest.approx((0.280 + 0.140) / 2)
    assert sum(count > 0 for count in measured.in_use) == 0  # no span to take means of
    later = workload(arrival_s=[0, 0, 0.3], given=[250] * 3, made=[41] * 3)
    used = trial(later, fleet=(1, 1)).in_use
    assert used == (1.0, 1.0)

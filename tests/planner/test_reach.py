"""Which options can meet an SLO at all."""

import math

import pytest

from mell_jax.planner.load import Slo
from mell_jax.planner.reach import check_reach, one_width_each, reach_of
from tests.planner.small import option, workload

LOAD = workload(arrival_s=[0, 1], given=[100, 100], made=[10, 10])


def test_a_lone_request_tells_what_is_within_reach() -> None:
    slow = reach_of(option(), workload=LOAD, slo=Slo(ttft_s=0.2, tpot_s=0.011))
    assert slow.ttft_s == pytest.approx(0.110)
    assert slow.tpot_s == pytest.approx(0.01165625)
    assert not slow.is_within(Slo(ttft_s=0.2, tpot_s=0.011))
    assert slow.is_within(Slo(ttft_s=0.2, tpot_s=0.012))
    assert slow.reason(Slo(ttft_s=0.1, tpot_s=0.011)) == (
        "TTFT is 110.0 ms at least, TPOT is 11.7 ms at least"
    )


def test_too_long_requests_are_a_reason_of_their_own() -> None:
    slo = Slo(ttft_s=1, tpot_s=1)
    small = reach_of(option(capacity_tokens=64), workload=LOAD, slo=slo)
    assert small.reason(slo) == "too many requests are longer than an instance holds"


def test_what_no_device_reaches_is_told_with_the_least() -> None:
    slo = Slo(ttft_s=0.05, tpot_s=0.001, attainment=1.0)
    reaches = [
        reach_of(one, workload=LOAD, slo=slo)
        for one in (option("A"), option("B", speed=2.0))
    ]
    with pytest.raises(ValueError) as told:
        check_reach(reaches, slo=slo)
    assert str(told.value) == (
        "--slo_ttft_ms=50 is below 55.0, the least that any of these devices reaches "
        "(B); --slo_tpot_ms=1 is below 5.8, the least that any of these devices "
        "reaches (B), for 100.0% of the requests and each alone: allow more, or add "
        "faster devices"
    )
    check_reach(reaches, slo=Slo(ttft_s=0.06, tpot_s=0.006))


def test_bounds_that_different_devices_reach_are_told_together() -> None:
    slo = Slo(ttft_s=0.06, tpot_s=0.006)
    fast = reach_of(option("B", speed=2.0), workload=LOAD, slo=slo)
    mixed = [
        type(fast)(option=option("A"), ttft_s=0.05, tpot_s=0.01),
        type(fast)(option=option("B"), ttft_s=0.07, tpot_s=0.005),
    ]
    with pytest.raises(
        ValueError, match=r"no device reaches both bounds: B comes near"
    ):
        check_reach(mixed, slo=slo)


def test_the_width_whose_fleet_costs_least_is_chosen() -> None:
    options = [option("A", width=1), option("A", width=2), option("B", width=2)]
    needed = {("A", 1): 3.5, ("A", 2): 1.9, ("B", 2): math.inf}
    chosen = one_width_each(options, fluid=lambda o: needed[o.kind, o.width])
    # Four devices either way; of single ones less is in use.
    assert [(each.kind, each.width) for each in chosen] == [("A", 1)]
    needed["A", 1] = 4.5
    chosen = one_width_each(options, fluid=lambda o: needed[o.kind, o.width])
    assert [(each.kind, each.width) for each in chosen] == [("A", 2)]

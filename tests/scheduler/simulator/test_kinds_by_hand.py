"""Devices with prices, and lost ones: figures of runs done by hand.

A page has 10 tokens and a request makes 10 tokens a second at speed 1, a page each.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mell_jax.scheduler.ids import DeviceGroupId, KindId
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.policies import NEVER_MOVE, POLICIES
from mell_jax.scheduler.simulator.check import check
from mell_jax.scheduler.simulator.devices import Devices
from mell_jax.scheduler.simulator.losses import draw_losses
from mell_jax.scheduler.simulator.profile import StepSpeed
from mell_jax.scheduler.simulator.results.compare import Knobs
from mell_jax.scheduler.simulator.settings import Settings, with_devices
from tests.scheduler.simulator.by_hand import run_recorded, workload

PLAIN = Settings(
    capacity_tokens=100,
    page_tokens=10,
    decode_tokens_per_s=10.0,
    prefill_tokens_per_s=math.inf,
    link_gbps=math.inf,
)
SMALL = Devices(kind=KindId("small"), count=4, capacity_tokens=100)
BIG = Devices(kind=KindId("big"), count=2, capacity_tokens=200, price_per_hour=3.0)
Rows = list[tuple[float, int, int]]


def figures(
    rows: Rows, settings: Settings, policy: str = "best_fit", *, reserve: int = 0
) -> dict[str, float]:
    """Of a run that is reproduced, and whose log another count confirms."""
    _, log = run_recorded(
        workload(rows), settings, policy=policy, knobs=Knobs(reserve=reserve)
    )
    if settings.steps is None:
        assert not check(log).errors
    said: dict[str, float] = json.loads(log[-1])["figures"]
    return said


def test_each_kind_costs_its_price_for_as_long_as_it_is_open() -> None:
    rows = [(0.0, 55, 45), (0.0, 95, 55), (8.0, 1, 1)]
    got = figures(rows, with_devices(PLAIN, [SMALL, BIG]))
    # The first ends with 10 pages, the second with 15: it needs a big one. They end at
    # 4.5 and 5.5 s; the last comes when the window of 2 s to 8 s is over.
    assert got["devices_mean of small"] == pytest.approx(2.5 / 6)
    assert got["devices_mean of big"] == pytest.approx(3.5 / 6)
    assert (got["devices_peak of small"], got["devices_peak of big"]) == (1, 1)
    assert got["money_per_hour"] == pytest.approx((2.5 * 1.0 + 3.5 * 3.0) / 6)
    # Pages at 2 s: 8 and 12, which a big one holds: 3.0. At 3 s 9 and 13, at 4 s 10 and
    # 14: both kinds. At 5 s 15 are left, at 6 and 7 s nothing, at 8 s 1 page.
    bounds = [3.0, 4.0, 4.0, 3.0, 0.0, 0.0, 1.0]
    assert got["money_bound_per_hour"] == pytest.approx(sum(bounds) / 7)


def test_what_is_left_on_a_dear_device_moves_to_a_cheap_one() -> None:
    rows = [(0.0, 100, 20), (0.0, 15, 65), (8.0, 1, 1)]
    settings = with_devices(PLAIN, [replace(SMALL, count=1), BIG])
    dear = figures(rows, settings, "reserve_peak")
    # The first has 12 pages in the end, 8 of a big one are left for the other.
    assert dear["devices_mean of big"] == pytest.approx(4.5 / 6)
    assert dear["money_per_hour"] == pytest.approx(4.5 * 3.0 / 6)
    cheap = figures(rows, settings, "consolidate")
    # It ends at 2 s; at the epoch of 2 s the other has 35 tokens and goes to a small
    # one, where it ends at 6.5 s.
    assert (cheap["migrations"], cheap["tokens_moved"]) == (1, 35)
    assert cheap["money_per_hour"] == pytest.approx(4.5 * 1.0 / 6)


FAST = replace(SMALL, kind=KindId("fast"), count=1, price_per_hour=5.0, speed=2.0)


@pytest.mark.parametrize("link_gbps", [math.inf, 8e-7])
def test_a_request_that_moves_goes_on_at_the_speed_of_its_target(
    link_gbps: float,
) -> None:
    settings = replace(PLAIN, link_gbps=link_gbps, kv_bytes_per_token=1)
    settings = with_devices(settings, [replace(SMALL, count=1), FAST])
    rows = [(0.0, 55, 45), (0.0, 35, 45), (8.0, 1, 1)]
    got = figures(rows, settings)
    # At 0.5 s the small one is full: 4 pages, 40 tokens, of the second request go to
    # the fast one, at once or in 0.4 s while both stand still. It has 40 tokens to
    # make, for which it takes 2 s; the first takes 4 s more where it is.
    late = 0.0 if link_gbps == math.inf else 0.4
    assert (got["migrations"], got["tokens_moved"]) == (1, 40)
    assert got["devices_mean of fast"] == pytest.approx((0.5 + late) / 6)
    assert got["devices_mean of small"] == pytest.approx((2.5 + late) / 6)
    assert got["e2e_p50_s"] == pytest.approx(2.5 + late)


def test_a_faster_device_prefills_as_much_faster() -> None:
    settings = replace(PLAIN, prefill_tokens_per_s=50.0)
    rows = [(0.0, 50, 20), (8.0, 50, 20)]
    got = figures(rows, with_devices(settings, [FAST]))
    assert got["ttft_p50_s"] == pytest.approx(0.5 + 0.05)
    assert got["e2e_p50_s"] == pytest.approx(0.5 + 1.0)


LOSSES = replace(
    PLAIN,
    max_devices=2,
    prefill_tokens_per_s=100.0,
    losses_per_hour=360.0,
    loss_seed=2,
    repair_s=2.0,
)


def test_when_a_device_is_lost_depends_on_the_seed_alone() -> None:
    times = [draw_losses(DeviceGroupId(d), per_hour=360.0, seed=2) for d in (0, 1)]
    first = [[next(each), next(each)] for each in times]
    assert first[0] == pytest.approx([1.299, 3.486], abs=1e-3)
    assert first[1] == pytest.approx([2.599, 24.699], abs=1e-3)


def test_a_lost_request_starts_again_from_its_tokens() -> None:
    got = figures([(0.0, 20, 25), (8.0, 1, 1)], LOSSES)
    # 0.2 s of prefill on device 0, which is lost at 1.299 s: 20 + 10.99 tokens. At once
    # 0.3 s of prefill on device 1, which is lost at 2.599 s: 20 + 20.99 tokens. Device
    # 0 is there again at 3.299 s, and lost at 3.486 s: 18 tokens of prefill. Device 1
    # is there at 4.599 s: 0.4 s of prefill and 0.401 s for the rest, until 5.4 s.
    assert (got["losses"], got["lost_requests"]) == (3, 3)
    assert got["lost_tokens"] == got["tokens_recomputed"] == 30 + 40 + 18
    assert got["preemptions"] == 0
    assert got["loss_wait_mean_s"] == pytest.approx((0 + 0.700 + 1.113) / 3, abs=1e-3)
    assert got["loss_wait_max_s"] == pytest.approx(1.113, abs=1e-3)
    assert got["devices_mean"] * 6 == pytest.approx(0.599 + 0.187 + 0.801, abs=3e-3)
    assert (got["served_requests"], got["activations"]) == (2, 5)


def test_an_idle_device_is_nobodys_loss() -> None:
    got = figures([(0.0, 20, 5), (30.0, 1, 1)], LOSSES)
    assert (got["losses"], got["lost_requests"]) == (0, 0)


def test_spot_devices_are_lost_at_their_own_rate() -> None:
    spot = replace(SMALL, kind=KindId("spot"), losses_per_hour=360.0)
    sure = replace(SMALL, kind=KindId("sure"), losses_per_hour=0.0)
    rows = [(0.0, 20, 25), (8.0, 1, 1)]
    settings = replace(LOSSES, losses_per_hour=0.0)
    assert figures(rows, with_devices(settings, [spot]))["losses"] >= 2
    often = replace(LOSSES, losses_per_hour=3600.0)
    assert "losses" not in figures(rows, with_devices(often, [sure]))


STANDING = replace(
    with_devices(PLAIN, [replace(SMALL, count=3)]),
    activation_s=1.0,
    losses_per_hour=360.0,
    loss_seed=0,  # device 0 is lost at 6.799 s
)
LOST = [(0.0, 20, 79), (10.0, 1, 1)]


def test_without_a_reserve_what_is_lost_waits_for_a_device_to_load() -> None:
    got = figures(LOST, STANDING, "consolidate")
    assert (got["losses"], got["lost_requests"]) == (1, 1)
    assert got["loss_wait_max_s"] == pytest.approx(1.0)
    assert got["money_per_hour"] == pytest.approx(1.0)


def test_with_a_reserve_it_goes_on_at_once_and_costs_another_device() -> None:
    got = figures(LOST, STANDING, "consolidate", reserve=1)
    assert (got["losses"], got["lost_requests"]) == (1, 1)
    assert got["loss_wait_max_s"] == 0.0
    # Two are open all the time: 0 and 1, then 1 and 2.
    assert got["money_per_hour"] == pytest.approx(2.0)


SEVERAL = sorted(set(POLICIES) - {"mell"})
MIXED = replace(
    with_devices(
        replace(PLAIN, prefill_tokens_per_s=200.0),
        [
            BIG,
            replace(SMALL, count=3, speed=0.5, price_per_hour=0.4),
            replace(FAST, count=2, losses_per_hour=400.0),
        ],
    ),
    losses_per_hour=100.0,
    repair_s=1.5,
    activation_s=0.3,
)


def mixed_rows(seed: int, count: int = 60) -> Rows:
    rng = np.random.default_rng(seed)
    at = np.sort(rng.uniform(0, 20, count)).tolist()
    return [(t, int(rng.integers(1, 90)), int(rng.integers(1, 80))) for t in at]


@pytest.mark.parametrize("policy", SEVERAL)
@pytest.mark.parametrize("link_gbps", [math.inf, 4e-6])
def test_another_count_confirms_kinds_and_losses_under_every_policy(
    policy: str, link_gbps: float
) -> None:
    settings = replace(MIXED, link_gbps=link_gbps, kv_bytes_per_token=1)
    got = figures(mixed_rows(3), settings, policy, reserve=1)
    assert got["served_requests"] == 60
    assert got["losses"] > 0 and got["lost_requests"] > 0
    if policy not in NEVER_MOVE:
        assert got["migrations"] > 0


STEPS = replace(
    MIXED,
    step_time=StepTime(fixed_s=0.02, row_s=0.005, page_s=0.001),
    steps=StepSpeed(prefill_token_s=0.002, token_budget=40, max_rows=8),
    kv_bytes_per_token=1,
)


@pytest.mark.parametrize("policy", ["consolidate", "llumnix_consolidation"])
@pytest.mark.parametrize("link_gbps", [math.inf, 4e-6])
def test_all_are_served_in_steps_of_devices_that_are_lost(
    policy: str, link_gbps: float
) -> None:
    got = figures(mixed_rows(4), replace(STEPS, link_gbps=link_gbps), policy, reserve=1)
    assert got["served_requests"] == 60
    assert got["lost_requests"] > 0 and got["migrations"] > 0


def test_steps_take_half_as_long_on_a_device_that_is_twice_as_fast() -> None:
    ends = []
    for speed in (1.0, 2.0):
        own = replace(SMALL, speed=speed)
        settings = with_devices(replace(STEPS, activation_s=0.0), [own])
        settings = replace(settings, losses_per_hour=0.0, link_gbps=math.inf)
        got = figures([(0.0, 30, 10), (8.0, 30, 10)], settings)
        ends.append((got["ttft_p50_s"], got["e2e_p50_s"]))
    assert ends[0] == pytest.approx([2 * each for each in ends[1]])

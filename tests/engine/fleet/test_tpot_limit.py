"""Placement keeps a limit of the time per output token, by more devices or by waits."""

import itertools
from collections import defaultdict

import pytest

from mell_jax.bench.stats import percentile
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.scheduler.placement.model import StepTime
from tests.engine.fleet.test_fleet import greedy
from tests.engine.fleet.timed_fleet import Timeline, limited_fleet
from tests.toy import submit

STEP = StepTime(fixed_s=0.010, row_s=0.002)  # 8 rows: 26 ms
TOKENS = 100


@pytest.mark.parametrize("limit_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_is_positive(limit_ms: float) -> None:
    with pytest.raises(ValueError, match=f"tpot_slo_ms must be > 0, got {limit_ms}"):
        FleetConfig(tpot_slo_ms=limit_ms)


def serve(fleet: Fleet, timeline: Timeline, *, requests: int) -> tuple[float, int]:
    """Sends all at once; returns the 90th percentile of TPOT, and the most devices."""
    for handle in range(requests):
        submit(fleet, [5] * 9, handle=handle, params=greedy(TOKENS), model="0")
    times_s: dict[int, list[float]] = defaultdict(list)
    most = ended = 0
    while ended < requests:
        frame = fleet.step()
        most = max(most, len(fleet.instances))
        if frame is None:
            timeline.now_s += 0.001  # as long as the engine's thread looks around
            continue
        ended += len(frame.finished)
        for handle in frame.handles.tolist():
            times_s[handle].append(timeline.now_s)
    assert all(len(own) == TOKENS for own in times_s.values())
    tpots_s = [(own[-1] - own[0]) / (TOKENS - 1) for own in times_s.values()]
    return percentile(tpots_s, 90.0), most


@pytest.mark.parametrize(
    ("budget_s", "devices", "tpot_s"),
    [
        (float("inf"), 2, 0.026),  # as many as have rows
        (0.020, 4, 0.020),  # 5 rows, 5, 5 and 1
        (0.0185, 4, 0.018),  # 4 rows each
    ],
)
def test_a_tight_limit_opens_more_devices_and_holds(
    budget_s: float, devices: int, tpot_s: float
) -> None:
    timeline = Timeline()
    fleet = limited_fleet(timeline, devices=4, step_time=STEP, budget_s=budget_s)
    tpot_p90_s, most = serve(fleet, timeline, requests=16)
    assert most == devices
    assert tpot_p90_s == pytest.approx(tpot_s, rel=0.02)


def test_requests_wait_where_all_devices_are_at_the_limit() -> None:
    timeline = Timeline()
    fleet = limited_fleet(timeline, devices=2, step_time=STEP, budget_s=0.0145)
    tpot_p90_s, most = serve(fleet, timeline, requests=12)  # 2 rows each
    assert most == 2
    assert tpot_p90_s <= 0.0145
    assert timeline.now_s >= 4.1  # three times 100 tokens of 14 ms


def test_long_contexts_count_by_their_pages() -> None:
    by_page = StepTime(fixed_s=0.010, page_s=0.001)
    held = {}
    for budget_s in (0.060, 0.035):
        timeline = Timeline()
        fleet = limited_fleet(timeline, devices=4, step_time=by_page, budget_s=budget_s)
        tpot_p90_s, held[budget_s] = serve(fleet, timeline, requests=4)
        assert tpot_p90_s <= budget_s
    counts = [held[budget_s] for budget_s in sorted(held)]
    assert all(more > fewer for more, fewer in itertools.pairwise(counts))

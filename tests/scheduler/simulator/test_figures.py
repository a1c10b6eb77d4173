"""Figures of runs done by hand, with pencil and paper beside each.

Devices hold 10 pages of 10 tokens; a request makes 10 tokens a second, a page each.
"""

import ast
import inspect
import io
import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.simulator import record
from mell_jax.scheduler.simulator.check import check, martello_toth
from mell_jax.scheduler.simulator.fleet import SimulatedFleet
from mell_jax.scheduler.simulator.repack import demands, run_repack
from mell_jax.scheduler.simulator.results.compare import REPACK_LIVE, run_policy
from mell_jax.scheduler.simulator.settings import Settings
from tests.scheduler.simulator.by_hand import workload

PLAIN = Settings(
    capacity_tokens=100,
    page_tokens=10,
    decode_tokens_per_s=10.0,
    prefill_tokens_per_s=math.inf,
    link_gbps=math.inf,
)
SLOW = replace(PLAIN, link_gbps=8e-7, kv_bytes_per_token=1)  # 100 tokens a second


def figures(
    rows: list[tuple[float, int, int]], settings: Settings, policy: str = "best_fit"
) -> dict[str, float]:
    """Of a run whose log another count confirms."""
    file = io.StringIO()

    def open_log(name: str, config: PolicyConfig) -> record.EventLog:
        header = record.make_header(
            name, config=config, settings=settings, workload=workload(rows)
        )
        return record.EventLog(file, header=header)

    outcome = run_policy(
        policy,
        workload=workload(rows),
        settings=settings,
        headroom=0.0,
        clock=itertools.count().__next__,
        progress=lambda served: None,
        open_log=open_log,
    )
    assert not check(file.getvalue().splitlines()).errors
    return outcome.figures


OVERFLOW = [
    (0.0, 55, 45),  # 6 pages on device 0, grows to 10
    (0.0, 35, 45),  # 4 pages beside it: device 0 is full
    (0.0, 15, 5),  # 2 pages on device 1
    (8.0, 1, 1),
]
"""At 0.5 s both on device 0 are at a page border. The first wants a 7th page: the
smallest that is enough is the second, whose 4 pages (40 tokens) go to device 1."""


def test_the_tokens_of_a_move_are_those_that_the_request_holds() -> None:
    got = figures(OVERFLOW, PLAIN)
    assert (got["migrations"], got["tokens_moved"]) == (1, 40)
    assert (got["pauses"], got["pause_s"]) == (0, 0)  # instant moves stop nobody


def test_a_pause_is_as_long_as_the_move_that_ends_it() -> None:
    got = figures(OVERFLOW, SLOW)
    # 40 tokens take 0.4 s; both are at a border and cannot go on meanwhile
    assert (got["migrations"], got["tokens_moved"]) == (1, 40)
    assert got["pauses"] == 2
    assert got["pause_s"] == pytest.approx(0.8)
    assert got["pause_max_s"] == pytest.approx(0.4)
    # the first ends at 4.5 + 0.4 s on device 0; the second at 4.5 + 0.4 s on device 1;
    # the last is there from 8.0 to 8.1 s; the window is 2 s to 8 s
    assert got["devices_mean"] == pytest.approx((2.9 + 2.9) / 6)


def test_a_paused_request_stands_still() -> None:
    ends = [figures(OVERFLOW, settings)["devices_mean"] for settings in (PLAIN, SLOW)]
    assert ends == pytest.approx([(2.5 + 2.5) / 6, (2.9 + 2.9) / 6])


def test_a_preempted_request_computes_nothing_without_a_page_and_stays_away() -> None:
    settings = replace(PLAIN, max_devices=1, prefill_tokens_per_s=100.0)
    rows = [(0.0, 55, 15), (0.0, 35, 15), (8.0, 1, 1)]
    got = figures(rows, settings)
    # The prompts take 0.55 and 0.35 s, so the second is at its border first, at 0.85 s
    # with 40 tokens: preempted, for it is the youngest and the device is full. The
    # first has 60 tokens at 1.05 s and 70 at 2.05 s; it leaves 4 pages at 1.05 s and 3
    # later, the second wants 5 and starts again when the first ends, at 2.05 s.
    assert (got["preemptions"], got["tokens_recomputed"]) == (1, 40)
    assert got["served_tokens"] == 70 + 50 + 2
    # 40 tokens of prefill and 10 of decode: until 3.45 s; the window begins at 2 s
    assert got["devices_mean"] == pytest.approx(1.45 / 6)


def test_waiting_ends_when_the_prefill_starts() -> None:
    settings = replace(PLAIN, activation_s=3.0)
    got = figures([(0.0, 10, 5), (1.0, 10, 5), (8.0, 1, 1)], settings)
    # device 0 has loaded at 3 s and is parked at once, so the last waits for 3 s again
    assert got["wait_mean_s"] == pytest.approx((3 + 2 + 3) / 3)
    assert got["wait_p99_s"] == pytest.approx(3.0)


def test_the_bound_is_of_the_workload_whatever_the_policy_and_the_loading() -> None:
    rows = [(n * 0.7, 30, 40) for n in range(20)]
    bounds = {
        figures(rows, replace(PLAIN, activation_s=load_s), policy)["lower_bound_mean"]
        for load_s in (0.0, 30.0)
        for policy in ("best_fit", "worst_fit", "consolidate")
    }
    assert len(bounds) == 1


REPACKED = [(0.0, 55, 45), (0.0, 35, 45), (0.0, 55, 45), (4.0, 1, 1)]
"""Pages at 1 s: 7, 5, 7: 3 devices. At 2 s: 8, 6, 8. At 3 s: 9, 7, 9. At 4 s: 10, 8, 10
and 1, which fits beside the 8. The window is 1 s to 4 s."""


def test_repack_counts_what_first_fit_decreasing_needs() -> None:
    meter = run_repack(workload(REPACKED), settings=PLAIN)
    got = meter.summary(requests=4)
    assert list(meter.devices) == [3, 3, 3, 3, 0]
    assert got["devices_mean"] == 3.0 and got["lower_bound_mean"] == 3.0
    small = [(0.0, 15, 45), (0.0, 15, 45), (0.0, 55, 45), (4.0, 1, 1)]
    # 3 + 3 and 7 pages at 1 s, 4 + 4 and 8, 5 + 5 and 9, 6 + 1 and 6 and 10 at 4 s
    assert list(run_repack(workload(small), settings=PLAIN).devices) == [2, 2, 2, 3, 0]


def test_the_bound_of_a_run_is_that_of_its_epochs() -> None:
    small = [(0.0, 15, 45), (0.0, 15, 45), (0.0, 55, 45), (4.0, 1, 1)]
    assert figures(small, PLAIN)["lower_bound_mean"] == (2 + 2 + 2 + 3) / 4


def test_a_demand_holds_what_lives_and_no_more() -> None:
    rows = [(0.0, 15, 5), (0.0, 200, 5), (0.6, 1, 8)]
    pages = [
        [sorted(sizes.tolist()) for sizes in demand.pages.values()]
        for demand in demands(workload(rows), settings=PLAIN)
    ]
    assert pages == [[[1]], [[]]]  # the first ended at 0.5 s, the second never fits


@pytest.mark.parametrize("policy", [*sorted(POLICIES), REPACK_LIVE])
def test_another_count_confirms_every_policy(policy: str) -> None:
    rng = np.random.default_rng(3)
    at = np.sort(rng.uniform(0, 20, 60)).tolist()
    rows = [(t, int(rng.integers(1, 60)), int(rng.integers(1, 40))) for t in at]
    if policy != REPACK_LIVE:  # which moves nothing, its requests are elsewhere at once
        scarce = replace(SLOW, max_devices=5, activation_s=0.7, prefill_share=0.5)
        scarce = replace(scarce, prefill_tokens_per_s=400.0)
        assert figures(rows, scarce, policy)["served_requests"] == 60
        assert figures(rows, PLAIN, policy)["served_requests"] == 60


def test_l2_by_its_definition() -> None:
    assert martello_toth([], 10) == 0
    assert martello_toth([6, 6, 6], 10) == 3
    assert martello_toth([5, 5, 5], 10) == 2
    assert martello_toth([7, 4, 4, 4], 10) == 3  # no 4 fits beside the 7


class _Greedy:
    """A machine that lets requests grow without asking whether there is room."""

    wake_s = math.inf

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def step(self, event: events.Event, *, now_s: float) -> plan.Plan:
        if isinstance(event, events.Grow):
            return plan.NOTHING
        return self._machine.step(event, now_s=now_s)


def test_the_check_finds_a_device_that_holds_too_much() -> None:
    file, load = io.StringIO(), workload(OVERFLOW)
    config = PolicyConfig()
    header = record.make_header(
        "best_fit", config=config, settings=PLAIN, workload=load
    )
    log = record.EventLog(file, header=header)
    machine = Machine(models=PLAIN.models(), policy=POLICIES["best_fit"](config))
    fleet = SimulatedFleet(
        _Greedy(machine),
        workload=load,
        settings=PLAIN,
        clock=lambda: 0.0,
        log=log,
    )
    log.ended(fleet.run().summary(requests=4))
    errors = check(file.getvalue().splitlines()).errors
    assert any("holds 11 of 10 pages" in error for error in errors)


def test_the_check_shares_no_code_with_what_it_checks() -> None:
    tree = ast.parse(Path(inspect.getfile(check)).read_text())
    imported = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    }
    imported |= {
        str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    assert imported <= set(sys.stdlib_module_names) | {"collections.abc"}

"""The demo model keeps a limit of the time per output token, as it was measured.

Its devices then have the pace of the fit, by their own clock: how busy this machine is
while requests are served does not count.
"""

import dataclasses
import math

import numpy as np
import pytest

from benchmarks.fleet.harness import FleetHarness
from benchmarks.fleet.paced import CarriedAtOnce, opened_at_once, paced
from benchmarks.fleet.run import Run, serve
from benchmarks.fleet.timeline import EventTime
from mell_jax.bench.metrics import tpot_s
from mell_jax.bench.replay import Order
from mell_jax.bench.stats import percentile
from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.transport import DevicePut
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.simulator.profile import Profile

PROMPT, TOKENS = 16, 96
PAGES = 7  # of a request in the end


@pytest.fixture(scope="module")
def harness() -> FleetHarness:
    """Four instances that know what their steps take, and no limit yet."""
    config = EngineConfig(
        instances=4,
        device_ids=(0, 0, 1, 1),
        max_rows=16,
        decode_rows=(1, 4, 16),
        token_budget=64,
        max_model_len=128,
        kv_pages=129,
    )
    return FleetHarness(build_engine(config, fleet=FleetConfig(tpot_slo_ms=1e6)))


def serve_all(harness: FleetHarness, *, requests: int, budget_s: float) -> Run:
    """Sends requests that are all alike, one every 10 ms."""
    rng = np.random.default_rng(7)
    orders = [
        Order(
            prompt=rng.integers(3, 400, PROMPT).astype(np.int32),
            output_tokens=TOKENS,
            arrival_s=0.01 * at,
        )
        for at in range(requests)
    ]
    timeline, workers = EventTime(), harness.workers.values()
    pace = pace_of(harness)
    with paced(workers, pace=pace, now_s=timeline.now_s), opened_at_once(workers):
        fleet = harness.open_fleet(
            POLICIES["consolidate"](FleetConfig().policy_config()),
            clock=timeline.now_s,
            config=FleetConfig(),
            spec=dataclasses.replace(harness.spec, step_budget_s=budget_s),
            transport=CarriedAtOnce(DevicePut()),
            arrivals=timeline,
        )
        run = serve(fleet, orders, timeline=timeline)
        harness.close_fleet(fleet)
    return run


def pace_of(harness: FleetHarness) -> Profile:
    """What was fitted; a token of a prompt costs as a row does."""
    step_time = harness.spec.step_time
    return Profile(
        name="demo",
        step_time=step_time,
        prefill_token_s=step_time.row_s,
        token_budget=64,
        max_rows=16,
        capacity_tokens=2048,
        page_tokens=16,
        kv_bytes_per_token=4096,
        load_s=0.0,
        link_bytes_per_s=math.inf,
    )


@pytest.mark.slow
def test_a_tight_limit_opens_all_four_and_holds(harness: FleetHarness) -> None:
    step_time, compiled = harness.spec.step_time, harness.compilations.count
    assert harness.spec.step_budget_s == pytest.approx(1000.0)
    four_s, five_s = (
        step_time.predict(rows=rows, pages=rows * PAGES) for rows in (4, 5)
    )
    assert four_s < five_s, "neither rows nor pages cost anything: measure anew"
    tight_s = (four_s + five_s) / 2
    loose = serve_all(harness, requests=14, budget_s=math.inf)
    assert loose.log.activations == 1
    assert tpots_p90_s(loose) > tight_s
    tight = serve_all(harness, requests=14, budget_s=tight_s)
    assert tight.log.activations == 4
    assert tpots_p90_s(tight) <= tight_s
    assert harness.compilations.count == compiled


def tpots_p90_s(run: Run) -> float:
    return percentile([tpot_s(record) for record in run.records], 90.0)

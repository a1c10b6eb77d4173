"""The demo model keeps a limit of the time per output token, as it was measured."""

import dataclasses
import math

import numpy as np
import pytest

from benchmarks.fleet.harness import FleetHarness
from benchmarks.fleet.run import Run, serve
from benchmarks.fleet.timeline import WallTime
from mell_jax.bench.metrics import tpot_s
from mell_jax.bench.replay import Order
from mell_jax.bench.stats import percentile
from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.scheduler.policies import POLICIES

REQUESTS, PROMPT, TOKENS = 12, 16, 96
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


def serve_all(harness: FleetHarness, *, budget_s: float) -> tuple[Run, int]:
    """Sends requests that are all alike; returns the run, and the most instances."""
    rng = np.random.default_rng(7)
    orders = [
        Order(
            prompt=rng.integers(3, 400, PROMPT).astype(np.int32),
            output_tokens=TOKENS,
            arrival_s=0.001 * at,
        )
        for at in range(REQUESTS)
    ]
    timeline = WallTime()
    fleet = harness.open_fleet(
        POLICIES["consolidate"](FleetConfig(place_wait_ms=0).policy_config()),
        clock=timeline.now_s,
        config=FleetConfig(),
        spec=dataclasses.replace(harness.spec, step_budget_s=budget_s),
    )
    run = serve(fleet, orders, timeline=timeline)
    harness.close_fleet(fleet)
    return run, run.log.activations


@pytest.mark.slow
def test_a_tight_limit_opens_all_four_and_holds(harness: FleetHarness) -> None:
    step_time = harness.spec.step_time
    assert harness.spec.step_budget_s == pytest.approx(1000.0)
    tight_s = 1.05 * step_time.predict(rows=3, pages=3 * PAGES)
    compiled = harness.compilations.count
    _, opened = serve_all(harness, budget_s=math.inf)
    assert opened == 1
    run, opened = serve_all(harness, budget_s=tight_s)
    assert opened == 4
    assert percentile([tpot_s(one) for one in run.records], 90.0) <= tight_s
    assert harness.compilations.count == compiled

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.fleet.suite import (
    FleetSettings,
    make_orders,
    measure_policy,
    render,
)
from benchmarks.fleet.timeline import DeviceTime
from mell_jax.bench.replay import Order
from mell_jax.bench.serving import ServingSettings


def settings_of(engine, **changes):
    requests = ServingSettings(
        engine=engine, num_requests=12, input_tokens=20, output_tokens=10
    )
    settings = FleetSettings(requests=requests, instances=3, policies=("consolidate",))
    return dataclasses.replace(settings, **changes)


@pytest.mark.parametrize("clock", ["devices", "wall"])
def test_a_policy_serves_all_and_is_simulated(harness, tiny_engine, clock):
    settings = settings_of(tiny_engine, clock=clock)
    orders, left_out = make_orders(harness, settings)
    if clock == "wall":
        orders = [dataclasses.replace(order, arrival_s=0.0) for order in orders]
    result = measure_policy(harness, orders, settings, policy="consolidate")
    assert left_out == 0
    assert result.failed_requests == 0
    assert result.ttft_ms.count == 12
    assert 0.0 < result.device_s <= 3 * result.duration_s
    assert result.migrations + result.failed_moves >= 0
    assert result.compilations == 0
    assert len(render([result]).splitlines()) == 8


def test_device_time_is_the_same_every_time(harness, tiny_engine):
    settings = settings_of(tiny_engine)
    orders, _ = make_orders(harness, settings)
    first, second = (
        measure_policy(harness, orders, settings, policy="mell") for _ in range(2)
    )
    assert first == second


def test_a_lone_request_takes_its_steps_and_its_prefill(harness, tiny_engine):
    settings = settings_of(tiny_engine, step_ms=30.0, prefill_tokens_per_s=100.0)
    prompt = np.arange(21, dtype=np.int32)
    orders = [
        Order(prompt=prompt, output_tokens=5, arrival_s=0.0),
        Order(prompt=prompt, output_tokens=5, arrival_s=8.0),
    ]
    result = measure_policy(harness, orders, settings, policy="best_fit")
    # 20 of 21 prompt tokens are more than a decode step's one: 0.2 s and 0.03 s.
    assert result.ttft_ms.min == pytest.approx(230.0)
    assert result.tpot_ms.max == pytest.approx(30.0)
    # The last instance stays open between the two.
    assert result.device_s == pytest.approx(8.0 + 0.23 + 4 * 0.03, abs=0.1)


def test_device_time_waits_for_nothing_that_has_passed():
    time = DeviceTime(step_s=0.03, prefill_tokens_per_s=100.0)
    time.wait_until(2.0)
    time.wait_until(1.0)
    assert time.now_s() == 2.0


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"policies": ("luck",)}, "policies must be of"),
        ({"instances": 1}, "at least 2"),
        ({"step_ms": float("nan")}, "step_ms must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_engine, wrong, rule):
    with pytest.raises(ValueError, match=rule):
        settings_of(tiny_engine, **wrong)


@pytest.mark.slow
def test_the_suite_runs_from_flags_to_json(tmp_path):
    path = tmp_path / "out.json"
    flags = ["--model=random:tiny", "--instances=2", "--policies=mell", "--noprogress"]
    flags += ["--num_requests=5", "--input_tokens=20", "--output_tokens=5"]
    command = ["benchmarks", "--suite=fleet", *flags, f"--output_json={path}"]
    assert main(command) == 0
    assert json.loads(path.read_text())["results"]["policies"][0]["policy"] == "mell"

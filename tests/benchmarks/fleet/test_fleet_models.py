"""Two models on the same instances, named by the trace."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.fleet.harness import FleetHarness, build_harness
from benchmarks.fleet.suite import FleetSettings, make_orders, measure_policy, render
from mell_jax.bench.serving import ServingSettings
from mell_jax.bench.workload import WorkloadError

NAMES = ("code", "conv")


@pytest.fixture(scope="module")
def two_models(tiny_engine) -> FleetHarness:
    engine = dataclasses.replace(
        tiny_engine, instances=2, device_ids=(0, 0), kv_pages=33, served_model_name=None
    )
    return build_harness(engine, progress=False, names=NAMES)


@pytest.fixture
def settings(tiny_engine, tmp_path: Path) -> FleetSettings:
    trace = tmp_path / "trace.csv"
    rows = [f"{n * 0.1:.1f},20,10,{NAMES[n % 2]}" for n in range(12)]
    trace.write_text(
        "\n".join(["arrival_s,input_tokens,output_tokens,model", *rows]) + "\n"
    )
    return FleetSettings(
        requests=ServingSettings(engine=tiny_engine, trace=trace),
        instances=2,
        models=NAMES,
    )


def test_both_are_served_and_measured_apart(two_models, settings) -> None:
    orders, _ = make_orders(two_models, settings)
    result = measure_policy(two_models, orders, settings, policy="consolidate")
    assert [model.model for model in result.models] == ["code", "conv"]
    assert [model.requests for model in result.models] == [6, 6]
    assert [model.failed for model in result.models] == [0, 0]
    assert result.devices_mean == pytest.approx(2.0)  # each needs one of its own
    assert result.simulated_devices_mean == pytest.approx(2.0, rel=0.1)
    assert "conv" in render([result])


def test_a_model_that_nobody_serves_is_told(two_models, settings) -> None:
    one = dataclasses.replace(settings, models=("code",))
    with pytest.raises(WorkloadError, match=r"not served: \['conv'\]; give them in"):
        make_orders(two_models, one)

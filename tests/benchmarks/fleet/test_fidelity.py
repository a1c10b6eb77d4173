"""The simulator beside the engine, on devices of a known pace and by their clock."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.fleet.fidelity import (
    Compared,
    FidelityResult,
    FidelitySettings,
    compare_policy,
    make_orders,
    profile_harness,
    render,
)
from benchmarks.fleet.harness import FleetHarness
from mell_jax.bench.serving import ServingSettings
from mell_jax.bench.step_load import LoadSettings
from mell_jax.engine.config import EngineConfig
from mell_jax.scheduler.cache_spec import CacheSpec, PageGroup
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.simulator.profile import Profile, write_profile

PACE = Profile(
    name="paced",
    step_time=StepTime(fixed_s=0.02, row_s=0.001, page_s=0.0005),
    prefill_token_s=0.0002,
    prefill_pair_s=0.0001,
    token_budget=32,
    max_rows=4,
    capacity_tokens=512,
    page_tokens=16,
    kv_bytes_per_token=512,
    load_s=0.0,
    link_bytes_per_s=1e9,
)


@pytest.fixture
def pace(tmp_path: Path) -> Path:
    path = tmp_path / "pace.json"
    write_profile(path, profile=PACE)
    return path


def settings_of(engine: EngineConfig, **changes: Any) -> FidelitySettings:
    requests = ServingSettings(
        engine=engine,
        num_requests=100,
        input_tokens=30,
        output_tokens=30,
        request_rate=6.0,
    )
    settings = FidelitySettings(
        requests=requests, instances=3, load=LoadSettings(steps=16)
    )
    return dataclasses.replace(settings, **changes)


def run(
    harness: FleetHarness, settings: FidelitySettings
) -> tuple[Profile, FidelityResult]:
    orders, _ = make_orders(harness, settings)
    measured = profile_harness(harness, settings, progress=False)
    result = compare_policy(
        harness,
        orders,
        settings,
        policy="consolidate",
        profile=measured.profile,
        progress=False,
    )
    return measured.profile, result


def test_the_pace_is_measured_and_the_simulator_agrees(
    harness: FleetHarness, tiny_engine: EngineConfig, pace: Path
) -> None:
    settings = settings_of(tiny_engine, pace=pace, clock="devices")
    profile, result = run(harness, settings)
    for name in ("fixed_s", "row_s", "page_s"):
        found, given = getattr(profile.step_time, name), getattr(PACE.step_time, name)
        assert found == pytest.approx(given, rel=1e-3)
    assert profile.prefill_token_s == pytest.approx(PACE.prefill_token_s, rel=1e-3)
    assert profile.prefill_pair_s == pytest.approx(PACE.prefill_pair_s, rel=1e-2)
    assert (result.failed_requests, result.compilations) == (0, 0)
    figures = {one.name: one for one in result.figures}
    assert figures["device-seconds"].engine > 20.0
    assert abs(figures["device-seconds"].deviation) < 0.05
    for name in ("TTFT p50, ms", "TTFT p90, ms", "TPOT p50, ms", "TPOT p90, ms"):
        assert abs(figures[name].deviation) < 0.10, figures[name]


def test_the_clock_of_devices_is_the_same_every_time(
    harness: FleetHarness, tiny_engine: EngineConfig, pace: Path
) -> None:
    settings = settings_of(tiny_engine, pace=pace, clock="devices", slice_s=3.0)
    orders, _ = make_orders(harness, settings)
    first, second = (
        compare_policy(
            harness,
            orders,
            settings,
            policy="best_fit",
            profile=PACE,
            progress=False,
        )
        for _ in range(2)
    )
    assert first == second


def test_devices_have_their_pace_by_the_walls_clock_too(
    harness: FleetHarness, tiny_engine: EngineConfig, pace: Path
) -> None:
    settings = settings_of(tiny_engine, pace=pace, slice_s=0.7)
    orders, _ = make_orders(harness, settings)
    assert 1 <= len(orders) < 10
    result = compare_policy(
        harness, orders, settings, policy="best_fit", profile=PACE, progress=False
    )
    figures = {one.name: one for one in result.figures}
    assert figures["TPOT p50, ms"].engine >= 21.5  # one row of one page


def test_a_deviation_is_of_what_the_engine_showed() -> None:
    assert Compared(name="x", engine=2.0, simulator=3.0).deviation == 0.5
    assert Compared(name="x", engine=0.0, simulator=1.0).deviation is None
    result = FidelityResult(
        policy="mell",
        figures=(
            Compared(name="moves", engine=4, simulator=3),
            Compared(name="ends", engine=0, simulator=3),
        ),
        failed_requests=0,
        compilations=0,
    )
    rows = [line.split() for line in render(result).splitlines()]
    assert rows[1:] == [["moves", "4", "3", "-25.0%"], ["ends", "0", "3", "-"]]


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"policies": ("luck",)}, "policies must be of"),
        ({"instances": 1}, "at least 2"),
        ({"slice_s": 0.0}, "slice_s must be positive"),
        ({"clock": "devices"}, "give one by --pace"),
    ],
)
def test_settings_out_of_range_are_refused(
    tiny_engine: EngineConfig, wrong: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        settings_of(tiny_engine, **wrong)


def test_a_model_with_windows_has_no_profile(
    harness: FleetHarness, tiny_engine: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    windowed = CacheSpec(groups=(PageGroup(window=16, ring=3),))
    spec = dataclasses.replace(harness.spec, cache=windowed)
    monkeypatch.setattr(harness, "spec", spec)
    with pytest.raises(ValueError, match="has layers with a window"):
        profile_harness(harness, settings_of(tiny_engine), progress=False)


@pytest.mark.slow
def test_the_suite_runs_from_flags_to_json(tmp_path: Path, pace: Path) -> None:
    path = tmp_path / "out.json"
    flags = ["--model=random:tiny", "--instances=2", "--noprogress", f"--pace={pace}"]
    flags += ["--num_requests=5", "--input_tokens=20", "--output_tokens=5"]
    flags += ["--max_rows=4", "--token_budget=32", "--kv_pages=65"]
    command = ["benchmarks", "--suite=fidelity", *flags, f"--output_json={path}"]
    assert main(command) == 0
    (result,) = json.loads(path.read_text())["results"]["policies"]
    assert result["policy"] == "consolidate"
    assert result["figures"][0]["name"] == "device-seconds"

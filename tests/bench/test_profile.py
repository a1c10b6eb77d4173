"""`--suite=profile`: what it loads an engine with, and what it writes."""

import json
import math
from pathlib import Path

import pytest

from mell_jax.bench.main import main
from mell_jax.bench.profile import ProfileSettings, measure_profile, render
from mell_jax.bench.step_load import LoadSettings, choose_points
from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.scheduler.simulator.profile import read_profile


def test_few_and_many_requests_have_short_and_long_prompts() -> None:
    points = choose_points(
        max_rows=32, context=1064, steps=32, capacity_tokens=16000, most_tokens=8000
    )
    assert [(p.rows, p.context) for p in points] == [
        *[(1, 16), (1, 250), (1, 1000)],
        *[(8, 16), (8, 250), (8, 1000)],
        *[(32, 16), (32, 62), (32, 250)],  # 8,000 tokens in all
    ]


def test_a_small_pool_bounds_prompts() -> None:
    points = choose_points(
        max_rows=4, context=128, steps=32, capacity_tokens=10, most_tokens=8000
    )
    assert [(p.rows, p.context) for p in points] == [(1, 2), (1, 10), (4, 2)]


def test_a_context_has_room_for_the_steps() -> None:
    with pytest.raises(ValueError, match="give max_model_len of at least 65"):
        choose_points(
            max_rows=4, context=64, steps=32, capacity_tokens=999, most_tokens=999
        )


@pytest.mark.slow  # `test_fidelity` measures one that it shares
def test_a_live_engine_is_measured(tiny_engine: EngineConfig) -> None:
    own = build_engine(tiny_engine)
    settings = LoadSettings(steps=8, repeats=1)
    compiled = own.compilations.count
    measured = measure_profile(own.engine, settings, token_budget=32, progress=False)
    profile = measured.profile
    assert own.compilations.count == compiled
    assert not own.engine.has_work
    assert profile.plans_ahead
    assert (profile.max_rows, profile.token_budget, profile.page_tokens) == (4, 32, 16)
    assert profile.capacity_tokens == 16 * (own.engine.infos[0].num_pages - 1)
    assert profile.link_bytes_per_s == math.inf  # there is one instance
    assert profile.decode_s(rows=4, pages=16) > 0
    assert measured.speed.decodes.steps > 20
    assert measured.speed.prefills.steps > 4
    lines = render(measured).splitlines()
    assert "not measured" in lines[7]
    assert lines[12].startswith("steps")


@pytest.mark.parametrize("name", ["steps", "most_tokens", "repeats"])
def test_a_load_has_at_least_one_of_each(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        LoadSettings(**{name: 0})


def test_a_profile_is_written_where_there_is_a_folder() -> None:
    with pytest.raises(ValueError, match="there is no folder /no/such/folder"):
        ProfileSettings(engine=EngineConfig(), profile=Path("/no/such/folder/p.json"))


@pytest.mark.slow
def test_the_suite_writes_a_profile_that_the_simulator_reads(tmp_path: Path) -> None:
    path, figures = tmp_path / "tiny.json", tmp_path / "out.json"
    flags = ["--model=random:tiny", "--max_rows=4", "--token_budget=32", "--devices=2"]
    flags += ["--kv_pages=65", "--noprogress"]
    command = ["mell-bench", "--suite=profile", f"--profile={path}", *flags]
    assert main([*command, f"--output_json={figures}"]) == 0
    profile = read_profile(path)
    assert profile.name == "random:tiny"
    assert 0 < profile.link_bytes_per_s < math.inf
    results = json.loads(figures.read_text())["results"]
    assert results["compilations"] == 0
    assert results["profile"]["capacity_tokens"] == 1024

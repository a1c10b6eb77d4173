"""The suite runs with a tiny model; its figures are of what they say."""

import jax
import pytest

from benchmarks.flags import define_flags
from benchmarks.rl.following import Followed
from benchmarks.rl.sleeping import HOST, live_bytes
from benchmarks.rl.suite import RlSettings, run_rl
from benchmarks.suites import settle
from mell_jax.engine.config import EngineConfig

ENGINE = EngineConfig(
    model="random:tiny", max_rows=4, decode_rows=(4,), token_budget=32
)


@pytest.mark.parametrize(
    "wrong", [{"rollout": 0}, {"new_tokens": 0}, {"streams": 0}, {"repeats": 0}]
)
def test_settings_are_at_least_one(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least 1"):
        RlSettings(engine=ENGINE, **wrong)


def test_one_device_is_measured():
    with pytest.raises(ValueError, match="instances must be 1"):
        RlSettings(engine=EngineConfig(instances=2))


def test_flags_become_settings():
    values = define_flags()
    values(["benchmarks", "--suite=rl", "--repeats=2", "--seed=3", "--max_rows=9"])
    settings, _ = settle(values)
    assert isinstance(settings, RlSettings)
    assert settings.engine.model == "random:110m"
    assert (settings.repeats, settings.seed) == (2, 3)
    options = settings.options(context=4096)
    assert (options["max_rows"], options["max_model_len"]) == (9, 1024)
    assert options["kv_pages"] == 64 * 64 + 1  # 64 prompts of 1024 tokens
    assert not options["prefix_cache"]


@pytest.mark.slow
def test_the_suite_says_all_of_it():
    settings = RlSettings(
        engine=ENGINE,
        rollout=6,
        prompt_tokens=6,
        new_tokens=5,
        streams=2,
        repeats=2,
        turns=1,
    )
    report = run_rl(settings, progress=False)
    at_once, streamed = report.results["updates"]
    assert (at_once["is_streamed"], streamed["is_streamed"]) == (False, True)
    for update in (at_once, streamed):
        assert update["nbytes"] == 4 * report.results["parameters"]
        assert update["update_ms"]["count"] == update["gap_ms"]["count"] == 2
        assert update["gap_ms"]["min"] > 0.0
        assert update["compilations"] == 0
    sleep = report.results["sleep"]
    assert sleep["weights_bytes"] == at_once["nbytes"]
    # Arrays of other tests come and go meanwhile, and these are small.
    assert sleep["pool_share"] == pytest.approx(1.0, abs=0.5)
    assert sleep["weights_share"] == pytest.approx(1.0, abs=0.5)
    assert sleep["first_token_ms"]["count"] == 2
    assert sleep["compilations"] == 0
    rollout = report.results["rollout"]
    assert rollout["prompts"] == 6
    assert rollout["engine_ms"]["count"] == rollout["scan_ms"]["count"] == 1
    assert rollout["ratio"] > 0.0
    assert "rollout of 6 prompts" in report.text


@pytest.mark.slow
def test_bytes_on_the_host_are_not_those_of_devices():
    before = live_bytes()
    array = jax.block_until_ready(jax.numpy.ones(1000))
    assert live_bytes() - before == 4000
    away = jax.device_put(array, array.sharding.with_memory_kind(HOST))
    del array
    assert live_bytes() - before == 0
    del away


def test_the_gaps_of_an_update_are_those_that_touch_it():
    notes = Followed(2)
    notes.times_s = [[0.0, 1.0, 2.5, 3.0], [0.2, 4.2]]
    assert notes.gaps_s(start_s=1.5, end_s=2.0) == [1.5, 4.0]
    assert notes.gaps_s(start_s=2.6, end_s=2.7) == [0.5, 4.0]


def test_a_stream_that_ended_is_not_waited_for():
    notes = Followed(1)
    notes.stop.set()
    with pytest.raises(RuntimeError, match="max_model_len"):
        notes.wait_for(1)

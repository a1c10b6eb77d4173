"""What determinism costs, measured tiny: every engine answers, and ratios are told."""

import pytest

from benchmarks.engine.deterministic import (
    DeterministicSettings,
    render,
    run_deterministic,
)
from mell_jax.engine.config import EngineConfig


@pytest.mark.slow
def test_a_run_has_every_engine_and_case():
    engine = EngineConfig(max_rows=4, max_model_len=64, kv_pages=33)
    settings = DeterministicSettings(
        engine=engine,
        batches=(2,),
        step_tokens=(4, 8),
        prompts=2,
        prompt_tokens=16,
        new_tokens=2,
        repeats=1,
    )
    report = run_deterministic(settings, progress=False)
    speeds = report.results["tokens_per_s"]
    assert speeds.keys() == {"prefill", "decode of 2"}
    for each in speeds.values():
        assert each.keys() == {"usual", "steps of 4", "steps of 8"}
        assert all(speed > 0 for speed in each.values())
    assert report.results["ratios"]["prefill"]["usual"] == 1.0


def test_ratios_stand_beside_what_they_are_of():
    medians = {"prefill": {"usual": 100.0, "steps of 4": 25.0}}
    ratios = {"prefill": {"usual": 1.0, "steps of 4": 0.25}}
    text = render(medians, ratios=ratios)
    assert "steps of 4" in text and "0.25" in text


def test_a_run_of_nothing_is_refused():
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        DeterministicSettings(engine=EngineConfig(), repeats=0)

import pytest

from benchmarks.engine.overhead import (
    PARTS,
    OverheadSettings,
    breakdown,
    measure,
    render,
)


def test_the_parts_of_a_step_add_up_to_it():
    laps = {
        "step": [10.0],
        "launch": [6.0],
        "plan": [1.0],
        "dispatch": [3.0],
        "land": [3.5],
        "wait": [2.0],
        "commit": [1.0],
    }
    parts = breakdown(laps)
    assert parts == {
        "plan": [1.0],
        "pack": [2.0],
        "dispatch": [3.0],
        "wait": [2.0],
        "commit": [1.0],
        "frame": [0.5],
        "other": [0.5],  # around launch and land
    }
    assert sum(values[0] for values in parts.values()) == laps["step"][0]


def test_an_engine_is_measured_and_taken_apart(harness, tiny_engine):
    settings = OverheadSettings(engine=tiny_engine, steps=20, repeats=2)
    turns = []
    result = measure(harness, settings, batch=4, on_turn=lambda: turns.append(1))
    assert result.engine_ms.count == 40
    assert result.bare_ms.count == 40
    assert result.overhead_ms < result.engine_ms.max
    assert set(result.parts_ms) == set(PARTS)
    assert min(result.parts_ms.values()) > 0.0
    assert len(turns) == 3
    text = render([result])
    for part in PARTS:
        assert part in text
    assert "dispatch" not in vars(harness.worker)  # the timers are gone


def test_rows_that_end_too_early_are_told(harness, tiny_engine, monkeypatch):
    monkeypatch.setattr("benchmarks.engine.overhead.PREFILL_STEPS", -9)
    settings = OverheadSettings(engine=tiny_engine, steps=10)
    with pytest.raises(ValueError, match="ended before"):
        measure(harness, settings, batch=4, on_turn=lambda: None)


def test_requests_that_the_engine_refuses_are_told(harness, tiny_engine):
    settings = OverheadSettings(engine=tiny_engine, prompt_tokens=100)
    with pytest.raises(RuntimeError, match="max_tokens of 174"):
        measure(harness, settings, batch=4, on_turn=lambda: None)


@pytest.mark.parametrize("wrong", [{"batches": ()}, {"steps": 0}, {"repeats": 0}])
def test_settings_out_of_range_are_refused(wrong, tiny_engine):
    with pytest.raises(ValueError, match="must be"):
        OverheadSettings(engine=tiny_engine, **wrong)

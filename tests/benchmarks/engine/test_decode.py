import sys

import pytest

from benchmarks.engine.batch import BatchSpeeds
from benchmarks.engine.decode import (
    BatchResult,
    Bench,
    DecodeSettings,
    middle,
    render,
)
from benchmarks.engine.torch_process import TorchProcess
from tests.benchmarks.engine.test_torch_process import ECHO


def test_the_middle_of_three_turns_is_taken_for_each_speed():
    speeds = [
        BatchSpeeds(prefill=1.0, decode=30.0, overall=5.0),
        BatchSpeeds(prefill=3.0, decode=None, overall=4.0),
        BatchSpeeds(prefill=2.0, decode=10.0, overall=6.0),
    ]
    assert middle(speeds) == BatchSpeeds(prefill=2.0, decode=20.0, overall=5.0)


def test_the_table_shows_what_is_missing_as_a_dash():
    result = BatchResult(
        batch=8,
        engine=BatchSpeeds(prefill=900.0, decode=100.0, overall=80.0),
        bare_decode=110.0,
        torch=BatchSpeeds(prefill=1200.0, decode=80.0, overall=64.0),
        torch_attention="sdpa",
        equal_tokens=1.0,
    )
    lines = render([result]).splitlines()
    header, decode, prefill, overall = (line.split() for line in lines[:4])
    assert lines[5].startswith("100.0% or more of the engine's tokens")
    assert header[:4] == ["tok/s", "batch", "engine", "bare"]
    assert decode == ["decode", "8", "100.00", "110.00", "80.00", "1.25"]
    assert prefill == ["prefill", "8", "900.00", "-", "1200", "0.75"]
    assert overall == ["overall", "8", "80.00", "-", "64.00", "1.25"]


def test_the_engine_and_its_bare_step_are_measured_without_torch(harness, tiny_engine):
    settings = DecodeSettings(
        engine=tiny_engine, prompt_tokens=20, new_tokens=8, repeats=2, bare_steps=3
    )
    turns = []
    bench = Bench(harness, None, settings=settings, vocab_size=256)
    result = bench.measure(2, on_turn=lambda: turns.append(1))
    assert result.engine.decode > 0.0
    assert result.engine.prefill > 0.0
    assert result.bare_decode > 0.0
    assert result.torch is None
    assert len(turns) == 2


def test_torch_takes_its_turns_on_the_same_prompts(harness, tiny_engine, tmp_path):
    script = tmp_path / "side.py"
    script.write_text(ECHO)
    settings = DecodeSettings(
        engine=tiny_engine, prompt_tokens=20, new_tokens=4, repeats=1, bare_steps=1
    )
    with TorchProcess(
        python=sys.executable, directory=tmp_path, threads=1, script=script
    ) as torch:
        bench = Bench(harness, torch, settings=settings, vocab_size=256)
        result = bench.measure(4, on_turn=lambda: None)
    assert result.torch == BatchSpeeds(prefill=160.0, decode=8.0, overall=8.0)
    assert result.torch_attention == "sdpa"
    assert 0.0 <= result.equal_tokens < 0.5  # the echo is no language model


@pytest.mark.parametrize(
    "wrong",
    [{"batches": ()}, {"batches": (0,)}, {"new_tokens": 1}, {"repeats": 0}],
)
def test_settings_out_of_range_are_refused(wrong, tiny_engine):
    with pytest.raises(ValueError, match="must be"):
        DecodeSettings(engine=tiny_engine, **wrong)

import contextlib
import sys

import pytest

from benchmarks.engine.batch import BatchRun, BatchSpeeds, BatchStep
from benchmarks.engine.decode import (
    BatchResult,
    Bench,
    DecodeSettings,
    SideResult,
    beside,
    middle,
    render,
)
from benchmarks.engine.side_process import SideProcess
from tests.benchmarks.engine.echo import echo_kind

PROGRAMS = ["transformers", "llama.cpp"]


def run_of(*, tokens: tuple[tuple[int, ...], ...]) -> BatchRun:
    """All sequences get a token each second."""
    rows = tuple(range(len(tokens)))
    steps = tuple(BatchStep(time_s=1.0 + i, rows=rows) for i in range(len(tokens[0])))
    return BatchRun(batch=len(tokens), prompt_tokens=10, steps=steps, tokens=tokens)


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
        sides={
            "transformers": SideResult(
                speeds=BatchSpeeds(prefill=1200.0, decode=80.0, overall=64.0),
                attention="sdpa",
                equal_tokens=1.0,
            )
        },
    )
    lines = render([result]).splitlines()
    header, decode, prefill, overall = (line.split() for line in lines[:4])
    assert lines[5] == (
        "of the engine's tokens are those of transformers, position by position: "
        "100.0% at batch 8 (sdpa)"
    )
    assert header[:6] == [
        "tok/s",
        "batch",
        "engine",
        "bare",
        "transformers",
        "llama.cpp",
    ]
    assert header[6:] == [f"engine/{name}" for name in PROGRAMS]
    assert decode == ["decode", "8", "100.00", "110.00", "80.00", "-", "1.25", "-"]
    assert prefill == ["prefill", "8", "900.00", "-", "1200", "-", "0.75", "-"]
    assert overall == ["overall", "8", "80.00", "-", "64.00", "-", "1.25", "-"]


def test_every_program_is_told_apart_in_the_table():
    speeds = BatchSpeeds(prefill=1.0, decode=50.0, overall=1.0)
    result = BatchResult(
        batch=1,
        engine=BatchSpeeds(prefill=1.0, decode=100.0, overall=1.0),
        bare_decode=None,
        sides={
            "llama.cpp": SideResult(
                speeds=speeds, attention="plain", equal_tokens=0.995
            ),
            "transformers": SideResult(
                speeds=BatchSpeeds(prefill=1.0, decode=25.0, overall=1.0),
                attention="eager",
                equal_tokens=1.0,
            ),
        },
    )
    text = render([result])
    decode = text.splitlines()[1].split()
    assert decode == ["decode", "1", "100.00", "-", "25.00", "50.00", "4.00", "2.00"]
    assert "those of transformers, position by position: 100.0% at batch 1 (e" in text
    assert "those of llama.cpp, position by position: 99.5% at batch 1 (plain)" in text


def test_a_program_that_goes_its_own_way_has_fewer_equal_tokens():
    ours = run_of(tokens=((1, 2, 3, 4), (5, 6, 7, 8)))
    theirs = run_of(tokens=((1, 2, 3, 4), (5, 6, 9, 8)))
    result = beside([ours], [theirs], attention="plain")
    assert result.equal_tokens == 0.75
    assert result.speeds.decode == 2.0


def test_the_engine_and_its_bare_step_are_measured_alone(harness, tiny_engine):
    settings = DecodeSettings(
        engine=tiny_engine, prompt_tokens=20, new_tokens=8, repeats=2, bare_steps=3
    )
    turns = []
    bench = Bench(harness, (), settings=settings, vocab_size=256)
    result = bench.measure(2, on_turn=lambda: turns.append(1))
    assert result.engine.decode > 0.0
    assert result.engine.prefill > 0.0
    assert result.bare_decode > 0.0
    assert result.sides == {}
    assert len(turns) == 2


def test_all_sides_take_their_turns_on_the_same_prompts(harness, tiny_engine, tmp_path):
    settings = DecodeSettings(
        engine=tiny_engine, prompt_tokens=20, new_tokens=4, repeats=1, bare_steps=1
    )
    with contextlib.ExitStack() as stack:
        sides = [
            stack.enter_context(
                SideProcess(
                    echo_kind(tmp_path, name=name),
                    python=sys.executable,
                    directory=tmp_path,
                    threads=1,
                )
            )
            for name in ("one", "two")
        ]
        bench = Bench(harness, sides, settings=settings, vocab_size=256)
        result = bench.measure(4, on_turn=lambda: None)
    assert list(result.sides) == ["one", "two"]
    for side in result.sides.values():
        assert side.speeds == BatchSpeeds(prefill=160.0, decode=8.0, overall=8.0)
        assert side.attention == "plain"  # the first of two that are as fast
        assert 0.0 <= side.equal_tokens < 0.5  # the echo is no language model


@pytest.mark.parametrize(
    "wrong",
    [{"batches": ()}, {"batches": (0,)}, {"new_tokens": 1}, {"repeats": 0}],
)
def test_settings_out_of_range_are_refused(wrong, tiny_engine):
    with pytest.raises(ValueError, match="must be"):
        DecodeSettings(engine=tiny_engine, **wrong)

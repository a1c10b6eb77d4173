"""Instances side by side, on one device and on several, count the same sums."""

import re
from collections.abc import Sequence

import jax
import pytest

from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.params import SamplingParams
from mell_jax.models.config import ModelConfig
from mell_jax.worker.compilation import CompilationCounter
from tests.toy import CONFIG, Transcript, expected, only, submit, toy_config, toy_engine

PROMPTS = ([1, 2, 3], [5] * 40, list(range(70)))  # one is longer than a step
COUNT = 20


def engine_on(config: ModelConfig, devices: Sequence[int]) -> Fleet:
    return toy_engine(config, devices=[jax.devices()[i] for i in devices])


def run_by_turns(engines: Sequence[Fleet]) -> list[Transcript]:
    """A step of each in turn, so that steps of all are in flight at once."""
    params = SamplingParams(temperature=0.0, max_tokens=COUNT)
    for engine in engines:
        for handle, prompt in enumerate(PROMPTS):
            submit(engine, prompt, handle=handle, params=params)
    seen = [Transcript() for _ in engines]
    while any(engine.has_work for engine in engines):
        for engine, transcript in zip(engines, seen, strict=True):
            if engine.has_work:
                transcript.read(engine.step())
    return seen


def assert_right(transcript: Transcript) -> None:
    for handle, prompt in enumerate(PROMPTS):
        assert transcript.tokens[handle] == expected(prompt, count=COUNT)


def test_instances_on_one_device_share_its_compiled_steps() -> None:
    engines = [engine_on(CONFIG, [0])]
    compilations = CompilationCounter()
    engines += [engine_on(CONFIG, [0]) for _ in range(3)]
    for transcript in run_by_turns(engines):
        assert_right(transcript)
    assert compilations.count == 0


@pytest.mark.parametrize(
    ("kv_heads", "groups"),
    [
        pytest.param(4, [(0, 1), (2, 3)], id="two pairs"),
        pytest.param(
            2, [(0, 1, 2, 3), (4, 5, 6, 7)], id="two fours", marks=pytest.mark.slow
        ),
    ],
)
def test_instances_on_groups_of_devices_count_right(kv_heads, groups) -> None:
    config = toy_config(heads=4, kv_heads=kv_heads)
    engines = [engine_on(config, group) for group in groups]
    compilations = CompilationCounter()
    # Two on the same devices, too: their messages must not wait for each other.
    engines.append(engine_on(config, groups[0]))
    for transcript in run_by_turns(engines):
        assert_right(transcript)
    assert compilations.count == 0


@pytest.mark.parametrize("is_decode", [True, False])
def test_a_pool_with_one_kv_head_is_not_copied_by_a_step(is_decode: bool) -> None:
    engine = engine_on(CONFIG, [0])
    run_by_turns([engine])
    worker = only(engine).worker
    assert worker.pool.shape == (65, 2, 16, 32)
    bucket = worker.choose_bucket(tokens=8, rows=8, is_decode=is_decode)
    text = worker.compile(bucket).as_text()
    assert "f32[65,2,16,32]" in text
    assert not re.search(r"= f32\[65,[0-9,]*\]\S* copy\(", text)

"""The whole engine against transformers: batches, chunks, cached and preempted rows.

Every family runs twice, so that each feature is seen on and off: crowded, with a pool
so small that rows are preempted, prompts cut into chunks and prefixes cached; and
roomy, with whole prompts and no cache.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from _pytest.mark import ParameterSet

from mell_jax.checkpoints import read_spec
from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import Logprobs
from mell_jax.engine.params import SamplingParams
from mell_jax.worker.cache_layout import lay_out
from tests.parity.tiny_models import (
    DECODE_TOKENS,
    GREEDY_TOKENS,
    PROMPT_TOKENS,
    families,
    load_golden,
    prompt,
    write_hf,
)
from tests.toy import Transcript, generate, run, submit

GREEDY = SamplingParams(temperature=0.0, max_tokens=GREEDY_TOKENS)
MAX_TOKENS = 400
SETTINGS: dict[str, dict[str, Any]] = {
    "crowded": {"token_budget": 48, "prefix_cache": True},
    "roomy": {"token_budget": 192, "kv_pages": 400, "prefix_cache": False},
}
CROWDED = 1.9
"""A pool holds so many of the longest sequences."""


def _each_family() -> list[ParameterSet]:
    """Families that differ from others in one word only are for the slow tests."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] if family.is_slow else [])
        for name, family in sorted(families().items())
    ]


@pytest.fixture(scope="module", params=_each_family())
def model(request: pytest.FixtureRequest, tmp_path_factory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp(request.param)
    write_hf(directory, families()[request.param])
    return request.param, directory


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def engine(request: pytest.FixtureRequest, model: tuple[str, Path]) -> Fleet:
    settings = dict(SETTINGS[request.param])
    if request.param == "crowded":
        settings["kv_pages"] = 1 + int(CROWDED * longest(model[1]))
    config = EngineConfig(
        model=str(model[1]),
        max_rows=4,
        decode_rows=(4,),
        max_model_len=MAX_TOKENS,
        **settings,
    )
    return build_engine(config).engine


def longest(directory: Path) -> int:
    """Pages that the longest sequence of a model holds in a crowded engine."""
    layout = lay_out(read_spec(directory).config)
    budget = int(SETTINGS["crowded"]["token_budget"])
    return layout.spec(page_tokens=16, token_budget=budget).held_by(MAX_TOKENS)


@pytest.fixture
def is_crowded(engine: Fleet) -> bool:
    return engine.infos[0].num_pages < SETTINGS["roomy"]["kv_pages"]


def test_greedy_ids_of_a_mixed_batch_are_those_of_transformers(
    model: tuple[str, Path], engine: Fleet, is_crowded: bool
) -> None:
    golden = load_golden(model[0]).greedy
    answers = generate(engine, [prompt(n) for n in PROMPT_TOKENS], params=GREEDY)
    for length, answer in zip(PROMPT_TOKENS, answers, strict=True):
        assert answer == golden[length].tolist(), f"prompt of {length} tokens"
    assert (engine.load().preemptions > 0) == is_crowded


def test_a_repeated_prompt_gives_the_same_ids_from_the_cache(
    model: tuple[str, Path], engine: Fleet, is_crowded: bool
) -> None:
    length = max(PROMPT_TOKENS)
    for _ in range(2):
        seen = Transcript()
        submit(engine, prompt(length), handle=1, params=GREEDY)
        run(engine, transcript=seen)
        assert seen.tokens[1] == load_golden(model[0]).greedy[length].tolist()
    cached = seen.prompts[1].cached_tokens
    spec = next(iter(engine.instances.values())).inner.sequences.spec
    if is_crowded and spec.is_plain:
        assert cached == length // 16 * 16
    elif is_crowded:  # a window's pages may have been needed meanwhile
        assert cached in (0, length // 16 * 16)
    else:
        assert cached == 0


def test_log_probabilities_are_those_of_transformers(
    model: tuple[str, Path], engine: Fleet
) -> None:
    golden = load_golden(model[0])
    params = replace(GREEDY, max_tokens=DECODE_TOKENS + 1, logprobs=20)
    submit(engine, golden.prompt, handle=1, params=replace(params, prompt_logprobs=20))
    seen = run(engine)
    logits = np.concatenate([golden.prefill_logits, golden.decode_logits])
    expected = log_softmax(logits.astype(np.float64))
    written = np.array(seen.tokens[1])
    assert written[:-1].tolist() == golden.decoded.tolist()
    read = seen.prompts[1].logprobs
    assert read is not None
    first = len(golden.prompt) - 1  # its row predicts the first token written
    assert_close(read, expected[:first], golden.prompt[1:])
    rows = seen.logprobs[1]
    said = Logprobs(
        chosen=np.array([row[0] for row in rows], np.float32),
        top_ids=np.array([row[1] for row in rows], np.int32),
        top=np.array([row[2] for row in rows], np.float32),
    )
    assert_close(said, expected[first:], written)


def assert_close(
    said: Logprobs,
    expected: npt.NDArray[np.float64],  # [n, V]
    tokens: npt.NDArray[np.int_],  # [n]
) -> None:
    """Within 1e-4 by relative norm, at the tokens chosen and at the best 20."""
    chosen = np.take_along_axis(expected, tokens[:, None], axis=1)[:, 0]
    best = np.take_along_axis(expected, said.top_ids, axis=1)
    assert relative(said.chosen, chosen) < 1e-4
    assert relative(said.top, best) < 1e-4
    assert relative(best, np.sort(expected, axis=1)[:, :-21:-1]) < 1e-4


def relative(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> float:
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def log_softmax(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

"""Instances on several devices: what one device says, and nothing sent in vain."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from mell_jax.engine.build import BuiltEngine, build_engine
from mell_jax.engine.config import DEMO, EngineConfig
from mell_jax.engine.params import SamplingParams
from mell_jax.worker.device import DeviceWorker
from tests.parity.test_engine import assert_close, log_softmax, relative
from tests.parity.tiny_models import (
    GREEDY_TOKENS,
    PROMPT_TOKENS,
    families,
    load_golden,
    prompt,
    write_hf,
)
from tests.toy import Transcript, generate, only, run, submit

SIZES = EngineConfig(
    max_rows=4,
    decode_rows=(4,),
    token_budget=48,  # long prompts are cut into chunks, and steps are mixed
    max_model_len=400,
    kv_pages=400,  # much more than what a step needs besides
)
GREEDY = SamplingParams(temperature=0.0, max_tokens=GREEDY_TOKENS)
SHORT = replace(GREEDY, max_tokens=24, logprobs=20, prompt_logprobs=20)


def build(model: str, *, devices: tuple[int, ...]) -> BuiltEngine:
    size = len(devices)
    config = replace(SIZES, model=model, tensor_parallel=size, device_ids=devices)
    return build_engine(config)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("llama2", (0, 1)), id="llama2 on two", marks=pytest.mark.slow),
        pytest.param(("llama2", (2, 3, 4, 5)), id="llama2 on four"),
        pytest.param(("gemma2", (0, 1)), id="gemma2 on two", marks=pytest.mark.slow),
        pytest.param(
            ("qwen2_window", (1, 2)), id="qwen2 on two", marks=pytest.mark.slow
        ),
        pytest.param(("qwen2_window", (0, 1, 2, 3)), id="qwen2, two KV heads, on four"),
        pytest.param(
            ("glm4", (0, 1)), id="glm4, norms after parts", marks=pytest.mark.slow
        ),
        pytest.param(
            ("phi3_short", (0, 1)), id="phi3, fused maps cut", marks=pytest.mark.slow
        ),
    ],
)
def family(request: pytest.FixtureRequest, tmp_path_factory) -> tuple[str, BuiltEngine]:
    name, devices = request.param
    directory: Path = tmp_path_factory.mktemp(name)
    write_hf(directory, families()[name])
    return name, build(str(directory), devices=devices)


def test_greedy_ids_are_those_of_transformers(family: tuple[str, BuiltEngine]) -> None:
    name, built = family
    before = built.compilations.count
    golden = load_golden(name).greedy
    answers = generate(built.engine, [prompt(n) for n in PROMPT_TOKENS], params=GREEDY)
    for length, answer in zip(PROMPT_TOKENS, answers, strict=True):
        assert answer == golden[length].tolist(), f"prompt of {length} tokens"
    assert built.compilations.count == before


def test_log_probabilities_are_those_of_transformers(
    family: tuple[str, BuiltEngine],
) -> None:
    name, built = family
    golden = load_golden(name)
    submit(built.engine, golden.prompt, handle=1, params=SHORT)
    seen = run(built.engine)
    expected = log_softmax(golden.prefill_logits.astype(np.float64))
    read = seen.prompts[1].logprobs
    assert read is not None
    assert_close(read, expected[:-1], golden.prompt[1:])
    logits = np.concatenate([golden.prefill_logits[-1:], golden.decode_logits])
    expected = log_softmax(logits.astype(np.float64))
    for (chosen, ids, best), row, token in zip(
        seen.logprobs[1], expected, seen.tokens[1], strict=False
    ):
        assert abs(chosen - row[token]) < 1e-4 * abs(row[token]) + 1e-5
        assert relative(np.array(best), row[ids]) < 1e-4


def test_devices_tell_each_other_no_more_than_they_must(
    family: tuple[str, BuiltEngine],
) -> None:
    """Two sums per layer and one for the embedding; the logits are put together."""
    name, built = family
    width = families()[name].config["hidden_size"]
    worker = worker_of(built)
    decode = worker.choose_bucket(tokens=4, rows=4, is_decode=True)
    mixed = worker.choose_bucket(tokens=48, rows=4, is_decode=False)
    assert messages(worker.compile(decode)) == {
        f"all-reduce f32[4,{width}]": 7,
        "all-gather f32[4,256]": 1,
    }
    assert messages(worker.compile(mixed)) == {
        f"all-reduce f32[48,{width}]": 7,
        "all-gather f32[4,256]": 1,
    }


def worker_of(built: BuiltEngine) -> DeviceWorker:
    """That of the one instance, which opens with the first request and stays open."""
    generate(built.engine, [prompt(3)], params=replace(GREEDY, max_tokens=1))
    return only(built.engine).worker


@pytest.mark.parametrize("is_decode", [True, False])
def test_pages_are_written_in_place(
    family: tuple[str, BuiltEngine], is_decode: bool
) -> None:
    worker = worker_of(family[1])
    shard_bytes = worker.pool.addressable_shards[0].data.nbytes
    assert shard_bytes * worker.group.kv_shards == worker.pool.nbytes
    bucket = worker.choose_bucket(tokens=4, rows=4, is_decode=is_decode)
    memory = worker.compile(bucket).memory_analysis()
    assert memory.alias_size_in_bytes >= shard_bytes
    assert memory.temp_size_in_bytes < shard_bytes


def messages(compiled: jax.stages.Compiled) -> dict[str, int]:
    """What is sent between devices: "all-reduce f32[4,128]" -> how often."""
    text = compiled.as_text()
    assert text is not None
    kinds = r"((?:all|collective|reduce-scatter|send|recv)[\w-]*)"
    sent = re.findall(rf"= (\([^)]*\)|\S+?\])\S* {kinds}\(", text)  # or tuples
    return dict(Counter(f"{kind} {shape}" for shape, kind in sent))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["olmo3", "cohere", "stablelm_parallel"])
def test_norms_over_all_heads_and_of_each_head_are_right_where_heads_are_cut(
    name: str, tmp_path: Path
) -> None:
    write_hf(tmp_path, families()[name])
    built = build(str(tmp_path), devices=(0, 1))
    golden = load_golden(name).greedy
    answers = generate(built.engine, [prompt(n) for n in PROMPT_TOKENS], params=GREEDY)
    for length, answer in zip(PROMPT_TOKENS, answers, strict=True):
        assert answer == golden[length].tolist(), f"prompt of {length} tokens"


@pytest.fixture(scope="module")
def alone() -> dict[int, tuple[list[int], list, list]]:
    return transcripts(build(DEMO, devices=(0,)))


@pytest.mark.parametrize(
    "devices",
    [
        pytest.param((0, 1), id="two"),
        pytest.param((4, 5, 6, 7), id="four", marks=pytest.mark.slow),
    ],
)
def test_the_demo_model_says_the_same_on_several_devices(devices, alone) -> None:
    """Its vocabulary of 1031 cannot be cut; on four its two KV heads are copied."""
    together = transcripts(build(DEMO, devices=devices))
    for handle, (tokens, logprobs, read) in together.items():
        expected_tokens, expected_logprobs, expected_read = alone[handle]
        assert tokens == expected_tokens
        np.testing.assert_allclose(logprobs, expected_logprobs, atol=1e-4)
        np.testing.assert_allclose(read, expected_read, atol=1e-4)


def transcripts(built: BuiltEngine):
    """Tokens, their log probabilities and the prompt's, greedy and drawn by turns."""
    rng = np.random.default_rng(7)
    for handle in range(12):
        params = replace(SHORT, temperature=0.9 * (handle % 2), seed=handle)
        ids = rng.integers(2, 1000, 2 + 9 * handle, dtype=np.int32)
        submit(built.engine, ids, handle=handle, params=params)
    seen = run(built.engine, transcript=Transcript())
    return {
        handle: (
            tokens,
            [row[0] for row in seen.logprobs[handle]],
            seen.prompts[handle].logprobs.chosen,
        )
        for handle, tokens in seen.tokens.items()
    }

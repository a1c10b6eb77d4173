"""Log probabilities for training: of what was sampled, and of given tokens.

A policy's importance ratio against itself, exp(by a plain pass - by the engine), is 1.
The plain pass is the module's own, over all tokens at once and without pages.
"""

import concurrent.futures
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax import LLM, InvalidRequestError, SamplingParams
from mell_jax.engine import validate
from mell_jax.frontend import RequestFailedError
from mell_jax.models.attention import causal_attention
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config

CONTEXT, VOCAB = 96, 64
CONFIG = uniform_config(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    max_position_embeddings=CONTEXT,
)
OPTIONS: dict[str, Any] = {
    "max_rows": 8,
    "decode_rows": (8,),
    "token_budget": 32,  # prompts come in chunks
    "max_model_len": CONTEXT,
    "kv_pages": 65,
    "instances": 2,
    "device_ids": (0, 0),
}
RATIO = 1e-5


@pytest.fixture(scope="module")
def module() -> Decoder:
    made = Decoder(CONFIG, rngs=nnx.Rngs(3))
    keys = iter(jax.random.split(jax.random.key(1), 99))
    for _, parameter in nnx.to_flat_state(nnx.state(made, nnx.Param)):
        parameter[...] = 0.3 * jax.random.normal(next(keys), parameter.shape)
    return made


@pytest.fixture(scope="module")
def llm(module: Decoder) -> Iterator[LLM]:
    with LLM.from_nnx(module, **OPTIONS) as made:
        yield made


@nnx.jit
def _plain_logits(module: Decoder, tokens: jax.Array) -> jax.Array:
    hidden, _ = module(tokens, jnp.arange(CONTEXT), None, causal_attention)
    return module.logits(hidden).astype(jnp.float32)


def plain(module: Decoder, prompt: Any, answer: Any, *, temperature: float) -> Any:
    """float64 of the answer's tokens, from float32 logits without a cache."""
    tokens = [*prompt, *answer]
    padded = jnp.array(tokens + [0] * (CONTEXT - len(tokens)))
    logits = np.asarray(_plain_logits(module, padded), np.float64) / temperature
    best = logits.max(axis=1, keepdims=True)
    logprobs = logits - best - np.log(np.exp(logits - best).sum(1, keepdims=True))
    at = np.arange(len(prompt) - 1, len(tokens) - 1)
    return logprobs[at, list(answer)]


def prompts(count: int, *, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 50, count)
    return [rng.integers(0, VOCAB, size).tolist() for size in sizes]


def ratios(module: Decoder, llm: LLM, *, temperature: float, mode: Any) -> Any:
    """Importance ratios of a policy against itself, of all tokens of a batch."""
    asked = prompts(12)
    params = SamplingParams(
        temperature=temperature, max_tokens=20, seed=5, logprobs=0, logprobs_mode=mode
    )
    found = []
    for prompt, output in zip(asked, llm.generate(asked, params), strict=True):
        (answer,) = output.completions
        own = plain(module, prompt, answer.token_ids, temperature=temperature)
        told = np.array([one.logprob for one in answer.logprobs or ()])
        found.append(np.exp(own - told))
    return np.concatenate(found)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_a_policys_importance_ratio_against_itself_is_one(
    module: Decoder, llm: LLM, temperature: float
) -> None:
    found = ratios(module, llm, temperature=temperature, mode="processed")
    assert found.size == 12 * 20
    assert np.abs(found - 1).max() < RATIO


def test_without_the_temperature_it_is_not(module: Decoder, llm: LLM) -> None:
    """The planted fault: raw log probabilities beside a temperature."""
    found = ratios(module, llm, temperature=0.7, mode="raw")
    assert np.abs(found - 1).max() > 0.1


@pytest.mark.parametrize("temperature", [None, 0.5, 1.0, 1.7])
def test_given_tokens_are_scored_as_a_plain_pass_does(
    module: Decoder, llm: LLM, temperature: float | None
) -> None:
    before, given = prompts(20), prompts(20, seed=1)
    given[2] = (given[2] * CONTEXT)[: CONTEXT - len(before[2])]  # to its end
    given[5] = given[5][:1]
    before[6], given[6] = [1], [2]
    given[3] = []
    given[4] = np.array(given[4])  # type: ignore[call-overload]
    scores = llm.score(before, given, temperature=temperature)
    for prompt, answer, score in zip(before, given, scores, strict=True):
        assert score.dtype == np.float32
        assert score.shape == (len(answer),)
        own = plain(module, prompt, answer, temperature=temperature or 1.0)
        np.testing.assert_allclose(score, own, atol=RATIO)


def test_a_score_is_what_was_told_when_the_tokens_were_sampled(llm: LLM) -> None:
    asked = prompts(8, seed=2)
    params = SamplingParams(
        temperature=0.8, max_tokens=9, seed=1, logprobs=0, logprobs_mode="processed"
    )
    answers = [output.completions[0] for output in llm.generate(asked, params)]
    scores = llm.score(asked, [one.token_ids for one in answers], temperature=0.8)
    for answer, score in zip(answers, scores, strict=True):
        told = [one.logprob for one in answer.logprobs or ()]
        np.testing.assert_allclose(score, told, atol=RATIO)


def test_threads_score_at_the_same_time(llm: LLM) -> None:
    asked, given = prompts(16, seed=3), prompts(16, seed=4)
    together = llm.score(asked, given)
    before = llm.load().steps
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        alone = list(
            pool.map(lambda i: llm.score([asked[i]], [given[i]])[0], range(16))
        )
    assert llm.load().steps > before
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=RATIO)


def test_what_is_aborted_has_no_score_and_tells_no_token(llm: LLM) -> None:
    params = SamplingParams(max_tokens=9, logprobs=2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        llm.pause()
        score = pool.submit(llm.score, [[1, 2]], [[3]])
        answers = pool.submit(llm.generate, [[1, 2]], params)
        while llm.load().waiting < 2:
            time.sleep(0.001)
        llm.pause("abort")
        with pytest.raises(RequestFailedError, match=r"ended before .* ask again"):
            score.result()
        (answer,) = answers.result()[0].completions
        llm.resume()
    assert (answer.finish_reason, answer.token_ids) == ("abort", ())
    assert answer.logprobs == ()  # of its tokens, as was asked


def test_nothing_to_score_asks_for_nothing(llm: LLM) -> None:
    before = llm.load().steps
    assert llm.score([], []) == []
    (empty,) = llm.score([[1, 2]], [[]])
    assert empty.shape == (0,)
    assert llm.load().steps == before


@pytest.mark.parametrize(
    ("asked", "given", "temperature", "message"),
    [
        ([[1]], [], None, "one for each of 1 prompts, got 0"),
        ([[]], [[1]], None, "nothing is before the first token of number 0"),
        (
            [[1]] * 2,
            [[1], [2] * CONTEXT],
            None,
            "96 tokens together, got 97 as number 1",
        ),
        ([[1]], [[VOCAB]], None, f"holds token id {VOCAB}"),
        ([[1]], [[-1, 2]], None, "holds token id -1"),
        ([[1]], [[1.5]], None, "got float64 in 1 dimensions as number 0"),
        ([[1]], ["text"], None, "must be token ids, got a text as number 0"),
        ([[1]], [[[1]]], None, "flat lists of integer token ids"),
        ([[1, [2]]], [[1]], None, "got rows in number 0"),
        ([1, 2], [3, 4], None, "rows of token ids, one for each pair, got int as nu"),
        ([[1]], [[1]], 0.0, "a greedy choice has no distribution"),
        ([[1]], [[1]], float("nan"), "temperature must be a finite number"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    llm: LLM, asked: Any, given: Any, temperature: float | None, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        llm.score(asked, given, temperature=temperature)


one_id = st.one_of(st.integers(0, VOCAB - 1), st.integers())
ANYTHING = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.floats(), st.text(max_size=3), one_id),
        st.binary(max_size=3),
        st.lists(one_id, max_size=4).map(np.array),
        st.lists(st.integers(0, VOCAB - 1), max_size=4).map(tuple),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(asked=ANYTHING, given_=ANYTHING)
def test_anything_is_scored_or_refused(llm: LLM, asked: Any, given_: Any) -> None:
    try:
        (score,) = llm.score(iter([asked]), iter([given_]))
    except InvalidRequestError:
        return
    assert score.shape == (len(given_),)
    assert (score < 0).all()


def test_more_than_one_message_holds_is_refused(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "MAX_PROMPT_LOGPROBS", 10)
    with pytest.raises(InvalidRequestError, match="at most 10 can be asked for"):
        llm.score([[1] * 6], [[2] * 6])
    assert llm.score([[1] * 6], [[2] * 5])[0].shape == (5,)


def test_both_kinds_come_from_one_batch(module: Decoder, llm: LLM) -> None:
    asked = prompts(12, seed=6)
    base = SamplingParams(temperature=0.6, max_tokens=12, seed=2, logprobs=0)
    kinds = ["raw", "processed"] * 6
    each = [dataclasses.replace(base, logprobs_mode=kind) for kind in kinds]
    for prompt, kind, output in zip(
        asked, kinds, llm.generate(asked, each), strict=True
    ):
        (answer,) = output.completions
        told = [one.logprob for one in answer.logprobs or ()]
        temperature = 0.6 if kind == "processed" else 1.0
        own = plain(module, prompt, answer.token_ids, temperature=temperature)
        np.testing.assert_allclose(told, own, atol=RATIO)


@pytest.mark.parametrize("prompt_logprobs", [None, 0])
def test_256_samples_compute_their_prompt_once(
    llm: LLM, prompt_logprobs: int | None
) -> None:
    """Once on each instance that has some; else what no full page holds."""
    size, n = 41, 256
    prompt = prompts(64, seed=7 if prompt_logprobs is None else 8)
    flat = [token for one in prompt for token in one][:size]
    before = llm.load()
    params = SamplingParams(n=n, max_tokens=2, seed=1, prompt_logprobs=prompt_logprobs)
    (output,) = llm.generate([flat], params)
    after = llm.load()
    queried = after.prefix_query_tokens - before.prefix_query_tokens
    computed = queried - (after.prefix_hit_tokens - before.prefix_hit_tokens)
    assert queried == n * size
    rest = size - 32
    assert output.prompt_token_ids == tuple(flat)
    assert computed in {size * k + rest * (n - k) for k in (1, 2)}
    assert [one.index for one in output.completions] == list(range(n))
    assert len({one.token_ids for one in output.completions}) > 200
    has_scores = output.prompt_logprobs is not None
    assert has_scores == (prompt_logprobs is not None)

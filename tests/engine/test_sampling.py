"""A request's tokens depend on its parameters and nothing else.

The toy's logits are 4 at the sum and 0 elsewhere, so at temperature 1 about a third of
the sampled tokens are the sum.
"""

import math

import numpy as np
import pytest

from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.params import SamplingParams
from tests.toy import SHARPNESS, VOCAB, Transcript, expected, run, submit, toy_engine

LOG_TOTAL = math.log(math.exp(SHARPNESS) + VOCAB - 1)
TINY = 9
PROMPT = list(range(20))

# What runs beside the request under test.
OTHERS = [
    SamplingParams(temperature=0.0, max_tokens=70),
    SamplingParams(temperature=2.0, seed=1, max_tokens=60, top_k=5),
    SamplingParams(temperature=1.0, seed=2, max_tokens=60, logprobs=3),
    SamplingParams(seed=3, max_tokens=60, logit_bias={4: 9.0}),
    SamplingParams(seed=4, max_tokens=60, repetition_penalty=2.0),
    SamplingParams(seed=5, max_tokens=60, allowed_token_ids=(1, 2, 3)),
    SamplingParams(temperature=0.0, max_tokens=60, min_tokens=50, stop_token_ids=(9,)),
]

WISHES = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.0, "seed": 1234},
    "negative_seed": {"temperature": 1.0, "seed": -1},
    "filtered": {"seed": 7, "top_k": 20, "top_p": 0.8, "min_p": 0.001},
    "repetition": {"temperature": 0.0, "repetition_penalty": 8.0},
    "presence": {"temperature": 0.0, "presence_penalty": 2.0},
    "frequency": {"temperature": 0.0, "frequency_penalty": 1.5},
    "penalties": {
        "temperature": 0.7,
        "seed": 5,
        "repetition_penalty": 1.3,
        "presence_penalty": -1.0,
        "frequency_penalty": 0.7,
    },
    "bias": {"seed": 3, "logit_bias": {5: 3.0, 6: 2.5, 7: -5.0}},
    "allowed": {"seed": 3, "allowed_token_ids": tuple(range(30)), "logit_bias": {1: 2}},
    "min_tokens": {
        "seed": 11,
        "min_tokens": 40,
        "stop_token_ids": tuple(range(8)),
        "temperature": 3.0,
    },
}


def alone(params: SamplingParams) -> list[int]:
    engine = toy_engine()
    submit(engine, PROMPT, handle=0, params=params)
    return run(engine).tokens[0]


@pytest.mark.parametrize("wish", WISHES)
def test_tokens_are_the_same_alone_in_a_batch_and_after_preemption(wish: str) -> None:
    params = SamplingParams(max_tokens=60, **WISHES[wish])
    want = alone(params)
    together = toy_engine()
    crowded = toy_engine(num_pages=TINY, token_budget=12)
    for engine in (together, crowded):
        for handle, other in enumerate(OTHERS):
            submit(engine, [handle] * (3 + handle), handle=handle, params=other)
        submit(engine, PROMPT, handle=9, params=params)
        assert run(engine).tokens[9] == want
    assert crowded.load().preemptions > 0


def preempt_newest(engine: Fleet, params: SamplingParams) -> Transcript:
    """Runs handle 9 in a pool that an older sequence needs more and more of."""
    submit(engine, [1] * 40, handle=0, params=SamplingParams(max_tokens=88, seed=0))
    submit(engine, PROMPT, handle=9, params=params)
    seen, slots = Transcript(), set()
    while engine.has_work:
        seen.read(engine.step())
        slots.add((engine.load().preemptions, 9 in seen.tokens))
    assert (1, True) in slots, "preempted after its first token"
    return seen


@pytest.mark.parametrize("wish", WISHES)
def test_a_sequence_preempted_between_two_tokens_goes_on_as_before(wish: str) -> None:
    params = SamplingParams(max_tokens=70, **WISHES[wish])
    want = alone(params)
    seen = preempt_newest(toy_engine(num_pages=TINY), params)
    assert seen.tokens[9] == want


def test_sampling_is_random_and_follows_its_seed() -> None:
    first = alone(SamplingParams(seed=1, max_tokens=50))
    assert first == alone(SamplingParams(seed=1, max_tokens=50))
    assert first != alone(SamplingParams(seed=2, max_tokens=50))
    assert first != expected(PROMPT, count=50)


@pytest.mark.parametrize("tiny", [5e-324, 1e-40])
@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_numbers_next_to_zero_are_as_greedy_as_can_be(name: str, tiny: float) -> None:
    params = SamplingParams(seed=1, max_tokens=5, **{name: tiny})
    assert alone(params) == expected(PROMPT, count=5)


def test_the_seed_of_a_submission_replaces_that_of_its_parameters() -> None:
    engine = toy_engine()
    params = SamplingParams(seed=1, max_tokens=40)
    for handle, seed in enumerate([None, 1, 2]):
        submit(engine, PROMPT, handle=handle, params=params, seed=seed)
    got = run(engine).tokens
    assert got[0] == got[1] != got[2]
    assert got[2] == alone(SamplingParams(seed=2, max_tokens=40))


def test_requests_without_a_seed_differ() -> None:
    engine = toy_engine()
    for handle in range(3):
        submit(engine, PROMPT, handle=handle, params=SamplingParams(max_tokens=40))
    got = run(engine).tokens
    assert got[0] != got[1] != got[2] != got[0]


def test_a_bias_moves_the_choice() -> None:
    params = SamplingParams(temperature=0.0, max_tokens=4, logit_bias={50: 4.5, 6: -1})
    assert alone(params) == [50, 50, 50, 50]
    params = SamplingParams(temperature=0.0, max_tokens=2, logit_bias={50: 3.5})
    assert alone(params) == expected(PROMPT, count=2)


def test_only_allowed_tokens_come() -> None:
    engine = toy_engine()
    params = SamplingParams(temperature=0.0, max_tokens=5, allowed_token_ids=(50, 3, 9))
    submit(engine, [1, 2], handle=0, params=params)
    # 3 is the sum; then 6 is barred and the lowest allowed id wins; 9 is the sum.
    assert run(engine).tokens[0] == [3, 3, 9, 3, 3]


def test_a_bias_of_a_token_that_is_not_allowed_is_void() -> None:
    params = SamplingParams(
        temperature=0.0,
        max_tokens=3,
        allowed_token_ids=(50, 60),
        logit_bias={60: 1.0, 70: 100.0},
    )
    assert alone(params) == [60, 60, 60]


def logprob(total: int, token: int) -> float:
    """Of `token` after tokens with this sum."""
    return (SHARPNESS if total % VOCAB == token else 0.0) - LOG_TOTAL


def top_ids(total: int) -> list[int]:
    """The sum, then the lowest ids; 20 in all."""
    best = total % VOCAB
    return [best, *(n for n in range(21) if n != best)][:20]


def make_tight(name: str) -> Fleet:
    if name == "whole":
        return toy_engine()
    if name == "chunked":
        return toy_engine(token_budget=8)
    engine = toy_engine(num_pages=TINY, token_budget=8)
    old = SamplingParams(temperature=0.0, max_tokens=80)
    submit(engine, [1] * 30, handle=50, params=old)
    submit(engine, [2] * 30, handle=51, params=old)
    return engine


@pytest.mark.parametrize("how", ["whole", "chunked", "preempted"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_those_of_the_raw_logits(how: str, temperature: float) -> None:
    engine = make_tight(how)
    params = SamplingParams(
        temperature=temperature,
        seed=1,
        max_tokens=50,
        logprobs=20,
        logit_bias={5: 3.0},  # changes the choice, not the log probabilities
        repetition_penalty=1.2,
    )
    submit(engine, PROMPT, handle=0, params=params)
    seen = run(engine)
    assert (engine.load().preemptions > 0) == (how == "preempted")
    total = sum(PROMPT)
    assert len(seen.tokens[0]) == len(seen.logprobs[0]) == 50
    for token, (chosen, ids, top) in zip(seen.tokens[0], seen.logprobs[0], strict=True):
        assert chosen == pytest.approx(logprob(total, token), abs=1e-5)
        assert ids == top_ids(total)
        assert top == pytest.approx([logprob(total, n) for n in ids], abs=1e-5)
        total += token


@pytest.mark.parametrize("how", ["whole", "chunked", "preempted"])
@pytest.mark.parametrize("length", [2, 9, 16, 17, 33, 60])
def test_prompt_logprobs_cover_all_but_the_first_token(how: str, length: int) -> None:
    engine = make_tight(how)
    # 1 1 2 4 8 ... is likely, the rest is not.
    prompt = [1, *expected([1], count=length // 2), *range(length)][:length]
    widths = {1: 20, 2: 3}
    for handle, width in widths.items():
        params = SamplingParams(temperature=0.0, max_tokens=20, prompt_logprobs=width)
        submit(engine, prompt, handle=handle, params=params)
    submit(engine, prompt, handle=3, params=SamplingParams(max_tokens=3))
    seen = run(engine)
    assert seen.prompts[3].logprobs is None
    for handle, width in widths.items():
        assert seen.tokens[handle] == expected(prompt, count=20)
        assert seen.prompts[handle].cached_tokens == 0
        got = seen.prompts[handle].logprobs
        totals = np.cumsum(prompt)[:-1].tolist()
        want = [logprob(t, n) for t, n in zip(totals, prompt[1:], strict=True)]
        assert got.chosen.tolist() == pytest.approx(want, abs=1e-5)
        best_ids = [top_ids(total)[:width] for total in totals]
        assert got.top_ids.tolist() == best_ids
        best = [SHARPNESS - LOG_TOTAL] * (length - 1)
        assert got.top[:, 0].tolist() == pytest.approx(best, abs=1e-5)
        assert got.top.shape == (length - 1, width)


@pytest.mark.parametrize("is_alone", [True, False])  # then in the decode bucket
def test_a_prompt_of_one_token_has_empty_prompt_logprobs(is_alone: bool) -> None:
    engine = toy_engine()
    params = SamplingParams(temperature=0.0, max_tokens=3, prompt_logprobs=2)
    submit(engine, [5], handle=0, params=params)
    if not is_alone:
        submit(engine, [5, 6, 7], handle=1, params=params)
    seen = run(engine)
    empty = seen.prompts[0].logprobs  # None would say that nobody asked
    assert empty is not None
    assert (empty.chosen.shape, empty.top_ids.shape) == ((0,), (0, 2))
    assert seen.tokens[0] == [5, 10, 20]


def test_a_prompt_preempted_between_its_chunks_starts_its_logprobs_again() -> None:
    engine = toy_engine(num_pages=TINY, max_rows=3, token_budget=4)
    old = SamplingParams(temperature=0.0, max_tokens=60)
    submit(engine, [1] * 14, handle=50, params=old)
    submit(engine, [2] * 14, handle=51, params=old)
    prompt = list(range(80))
    params = SamplingParams(temperature=0.0, max_tokens=2, prompt_logprobs=1)
    submit(engine, prompt, handle=0, params=params)
    seen, before = Transcript(), set()
    while engine.has_work:
        seen.read(engine.step())
        before.add((engine.load().preemptions, 0 in seen.tokens))
    assert (1, False) in before, "preempted before its first token"
    got = seen.prompts[0].logprobs
    totals = np.cumsum(prompt)[:-1].tolist()
    want = [logprob(t, n) for t, n in zip(totals, prompt[1:], strict=True)]
    assert got.chosen.tolist() == pytest.approx(want, abs=1e-5)

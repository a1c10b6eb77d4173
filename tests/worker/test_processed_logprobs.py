"""Processed log probabilities are of what a token was drawn from; raw ones stay raw."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mell_jax.worker import sampling
from tests.worker.sampling_harness import (
    VOCAB,
    mask_for,
    rows_for,
    run,
    sample,
    state_for,
)
from tests.worker.sampling_model import (
    Wish,
    edited_logits,
    is_near_a_boundary,
    probabilities,
)

ROWS = 8
ATOL = 1e-5

token_ids = st.integers(0, VOCAB - 1)
ALONE = {
    "nothing": st.just({}),
    "temperature": st.fixed_dictionaries({"temperature": st.floats(0.05, 5.0)}),
    "top_k": st.fixed_dictionaries({"top_k": st.integers(1, VOCAB + 5)}),
    "top_p": st.fixed_dictionaries({"top_p": st.floats(0.01, 0.999)}),
    "min_p": st.fixed_dictionaries({"min_p": st.floats(0.001, 1.0)}),
    "presence": st.fixed_dictionaries({"presence": st.floats(-2, 2)}),
    "frequency": st.fixed_dictionaries({"frequency": st.floats(-2, 2)}),
    "repetition": st.fixed_dictionaries({"repetition": st.floats(0.2, 5.0)}),
    "bias": st.fixed_dictionaries(
        {"bias": st.dictionaries(token_ids, st.floats(-10, 10), max_size=8)}
    ),
    "allowed": st.fixed_dictionaries(
        {
            "bias": st.dictionaries(token_ids, st.just(0.0), min_size=1, max_size=30),
            "is_allow_only": st.just(True),
        }
    ),
    "min_tokens": st.fixed_dictionaries(
        {
            "stops": st.lists(token_ids, min_size=1, max_size=4).map(tuple),
            "is_stop_barred": st.just(True),
        }
    ),
    "grammar": st.fixed_dictionaries(
        {"let_through": st.frozensets(token_ids, min_size=1, max_size=VOCAB)}
    ),
    "greedy": st.just({"temperature": 0.0}),
}
histories = st.fixed_dictionaries(
    {
        "prompt": st.lists(token_ids, max_size=20).map(tuple),
        "generated": st.lists(token_ids, min_size=1, max_size=20).map(tuple),
        "seed": st.integers(0, 2**64 - 1),
    }
)


@st.composite
def wishes(draw, kinds=tuple(ALONE)):
    """Some of the kinds together, at a temperature of 1 if none says another."""
    chosen = draw(st.lists(st.sampled_from(kinds), unique=True, max_size=len(kinds)))
    parts = {"temperature": 1.0, **draw(histories)}
    for kind in chosen:
        parts |= draw(ALONE[kind])
    return Wish(is_processed=True, **parts)


def drawn_logits(seed, *, scale=3.0):
    draw = np.random.default_rng(seed).standard_normal((ROWS, VOCAB))
    return (draw * scale).astype(np.float32)


def expected_logprobs(logits, wish):
    """Log probabilities of all tokens, in float64."""
    if not wish.is_processed:
        values = logits.astype(np.float64)
    elif wish.temperature < 1e-5:
        values = edited_logits(logits, wish=wish)
    else:
        kept = probabilities(logits, wish=wish) > 0
        values = np.where(kept, edited_logits(logits, wish=wish), -np.inf)
        values = values / np.float64(np.float32(wish.temperature))
    return values - values.max() - np.log(np.exp(values - values.max()).sum())


def check(logits, batch):
    """Returns how many rows were compared with the model."""
    sampled, _ = run(logits, batch, wants_logprobs=True)
    chosen, ids, top = map(np.asarray, sampled.logprobs)
    compared = 0
    for row, wish in enumerate(batch):
        token = int(sampled.tokens[row])
        if token < 0 or is_near_a_boundary(logits[row], wish=wish):
            continue
        expected = expected_logprobs(logits[row], wish)
        tolerance = ATOL + 3e-7 * float(np.abs(expected[np.isfinite(expected)]).max())
        np.testing.assert_allclose(chosen[row], expected[token], atol=tolerance, rtol=0)
        best = np.sort(expected)[::-1][:20]
        np.testing.assert_allclose(top[row], best, atol=tolerance, rtol=0)
        told = np.isfinite(top[row])
        of_ids = expected[ids[row][told]]
        np.testing.assert_allclose(of_ids, best[told], atol=tolerance, rtol=0)
        compared += 1
    return compared


@pytest.mark.parametrize("kind", ALONE)
@settings(max_examples=4, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_each_wish_alone_is_in_what_is_told(kind, data, seed):
    batch = [data.draw(wishes((kind,))) for _ in range(ROWS)]
    check(drawn_logits(seed), batch)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.lists(wishes(), min_size=ROWS, max_size=ROWS),
    are_processed=st.lists(st.booleans(), min_size=ROWS, max_size=ROWS),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.1, 1.0, 5.0, 20.0]),
)
def test_rows_of_both_kinds_are_right_side_by_side(batch, are_processed, seed, scale):
    batch = [
        dataclasses.replace(wish, is_processed=which)
        for wish, which in zip(batch, are_processed, strict=True)
    ]
    assume(check(drawn_logits(seed, scale=scale), batch))


@settings(max_examples=15, deadline=None)
@given(
    batch=st.lists(wishes(), min_size=ROWS, max_size=ROWS),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_beside_it_change_no_bit_of_a_row(batch, seed):
    logits = drawn_logits(seed)
    raw = Wish(temperature=0.7, seed=1)
    own = dataclasses.replace(raw, is_processed=True)
    for first in (raw, own):
        alone, _ = run(logits[:1], [first], wants_logprobs=True)
        beside, _ = run(logits, [first, *batch[1:]], wants_logprobs=True)
        for there, here in zip(alone.logprobs, beside.logprobs, strict=True):
            assert np.asarray(there[0]).tobytes() == np.asarray(here[0]).tobytes()


def test_what_is_kept_within_the_top_sums_to_one():
    logits = drawn_logits(1)
    batch = [
        Wish(temperature=0.5 + row / 4, top_k=1 + row, seed=row, is_processed=True)
        for row in range(ROWS)
    ]
    sampled, _ = run(logits, batch, wants_logprobs=True)
    told = np.exp(np.asarray(sampled.logprobs.top, np.float64))
    np.testing.assert_allclose(told.sum(axis=1), 1.0, atol=1e-6)
    assert (told > 0).sum(axis=1).tolist() == [1 + row for row in range(ROWS)]


def test_a_temperature_that_is_left_out_is_noticed():
    logits = drawn_logits(2)
    batch = [Wish(temperature=0.7, seed=row, is_processed=True) for row in range(ROWS)]
    check(logits, batch)
    forgotten = rows_for([*batch, *[Wish()] * 24])
    forgotten.temperature[:ROWS] = 1.0
    told, _ = sample(
        jnp.asarray(np.pad(logits, ((0, 24), (0, 0)))),
        state_for(batch),
        forgotten,
        wants=sampling.EVERYTHING,
        mask=mask_for([*batch, *[Wish()] * 24]),
    )
    right = [expected_logprobs(logits[row], wish) for row, wish in enumerate(batch)]
    tokens = np.asarray(told.tokens)[:ROWS]
    wrong = np.asarray(told.logprobs.chosen)[:ROWS]
    off = np.abs(wrong - np.array(right)[np.arange(ROWS), tokens])
    assert off.max() > 0.1


@pytest.mark.parametrize("temperature", [1e-5, 1e-3, 100.0])
def test_the_ends_of_temperature_give_finite_numbers(temperature):
    logits = np.full((1, VOCAB), -3.0, np.float32)
    logits[0, 7] = 30.0
    wish = Wish(temperature=temperature, seed=1, is_processed=True)
    sampled, _ = run(logits, [wish], wants_logprobs=True)
    assert np.isfinite(sampled.logprobs.chosen[0])
    assert not np.isnan(np.asarray(sampled.logprobs.top)).any()

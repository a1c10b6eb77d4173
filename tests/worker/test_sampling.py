"""The sampler: what it may answer, what it remembers, what cannot disturb it."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.worker import sampling
from mell_jax.worker.compilation import CompilationCounter
from tests.worker.sampling_harness import (
    VOCAB,
    admit,
    mask_for,
    open_mask,
    rows_for,
    run,
    sample,
    sampler,
    state_for,
    weights_of,
)
from tests.worker.sampling_model import Wish, is_near_a_boundary, probabilities

ROWS = 8


def tokens_of(logits, wishes, **kwargs):
    return run(logits, wishes, **kwargs)[0].tokens.tolist()


token_ids = st.integers(0, VOCAB - 1)
wishes = st.builds(
    Wish,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.8]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, VOCAB, 10_000]),
    top_p=st.sampled_from([1.0, 0.0, 0.1, 0.5, 0.9, 0.99]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    presence=st.sampled_from([0.0, 0.5, -1.0]),
    frequency=st.sampled_from([0.0, 0.25, -0.5]),
    repetition=st.sampled_from([1.0, 2.0, 0.5]),  # exact, so that ties stay ties
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**31 - 1),
    prompt=st.lists(token_ids, max_size=20).map(tuple),
    generated=st.lists(token_ids, max_size=20).map(tuple),
    bias=st.dictionaries(
        st.integers(-5, VOCAB + 5), st.floats(-10, 10, width=16), max_size=8
    ),
    is_allow_only=st.booleans(),
    stops=st.lists(token_ids, max_size=4, unique=True).map(tuple),
    is_stop_barred=st.booleans(),
    let_through=st.none() | st.frozensets(token_ids, max_size=VOCAB),
)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.lists(wishes, min_size=ROWS, max_size=ROWS),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.1, 1.0, 5.0, 30.0]),
    has_ties=st.booleans(),
)
def test_every_token_follows_the_rules_of_the_model(batch, seed, scale, has_ties):
    logits = np.random.default_rng(seed).standard_normal((ROWS, VOCAB)) * scale
    logits = (np.round(logits) if has_ties else logits).astype(np.float32)
    state = state_for(batch)
    rows = rows_for(batch)
    packed = sampling.pack_rows(rows)
    mask = mask_for(batch)
    weights = np.asarray(weights_of(logits, state, packed, mask), np.float64)
    sampled, _ = run(logits, batch, state=state)
    assert (sampled.tokens != sampling.NOT_FINITE).all()
    for row, wish in enumerate(batch):
        if is_near_a_boundary(logits[row], wish=wish):
            continue
        expected = probabilities(logits[row], wish=wish)
        token = int(sampled.tokens[row])
        if not expected.any():
            assert token == sampling.NONE_ALLOWED
        elif wish.temperature == 0.0:
            assert token == expected.argmax()
        else:
            assert expected[token] > 0
            drawn_from = weights[row] / weights[row].sum()
            np.testing.assert_allclose(drawn_from, expected, rtol=2e-4, atol=1e-30)


def test_greedy_takes_the_lowest_id_of_equal_logits():
    assert tokens_of([[1, 3, 3, 2], [0, 0, 0, 0]], [Wish(), Wish()]) == [1, 0]


def test_a_temperature_next_to_zero_is_greedy():
    assert tokens_of([[0, 1, 2, 1]], [Wish(temperature=9e-6)]) == [2]


def test_the_smallest_random_temperature_still_finds_the_maximum():
    logits = [[-3e38, 3e38, 0, 1]]
    assert tokens_of(logits, [Wish(temperature=1e-5, seed=3)]) == [1]


@pytest.mark.parametrize("tiny", [5e-324, 1e-45, 1e-40, 1.2e-38])
def test_numbers_next_to_zero_do_what_zero_would(tiny):
    spread = [1.0, 2.0, 1.5, 1.9]
    wishes = [
        Wish(temperature=tiny),  # greedy
        Wish(temperature=100.0, top_p=tiny),  # the most likely one, always
        Wish(temperature=1.0, seed=8, min_p=tiny),  # drops nothing
        Wish(temperature=1.0, seed=8),
    ]
    tokens = run([spread] * 4, wishes)[0].tokens.tolist()
    assert tokens[:2] == [1, 1]
    assert tokens[2] == tokens[3]


@pytest.mark.parametrize("repetition", [0.01, 100.0])
@pytest.mark.parametrize("temperature", [0.0, 1e-5, 1.0])
def test_the_strongest_penalties_leave_a_choice(repetition, temperature):
    wish = Wish(
        temperature=temperature, repetition=repetition, generated=(0, 1), frequency=2.0
    )
    down, up = [30.0, -30.0, 1.0, 29.0], [2.0, -30.0, 1.0, 29.0]
    sampled, _ = run([down, up], [wish, wish])
    wanted = {0.01: [0, 0], 100.0: [3, 3]}[repetition]  # 30 -> 3000, 2 -> 200, or less
    assert sampled.tokens.tolist() == wanted


def test_repetition_divides_positive_and_multiplies_negative_logits():
    #        0    1    2    3: 0 and 1 were seen
    logits = [[4.0, -1.0, 2.5, -1.5]]
    wish = Wish(repetition=2.0, prompt=(0,), generated=(1,))  # 2.0 -2.0 2.5 -1.5
    assert tokens_of(logits, [wish]) == [2]
    assert tokens_of([[-3.0, -1.0, -2.5, -1.9]], [wish]) == [3]


def test_presence_and_frequency_count_output_only():
    logits = [[4.0, 3.0, 2.0]]
    assert tokens_of(logits, [Wish(presence=9.0, frequency=9.0, prompt=(0,))]) == [0]
    assert tokens_of(logits, [Wish(presence=1.5, generated=(0,))]) == [1]
    assert tokens_of(logits, [Wish(frequency=0.6, generated=(0,))]) == [0]
    assert tokens_of(logits, [Wish(frequency=0.6, generated=(0, 0))]) == [1]


def test_bias_is_added_and_ids_outside_the_vocabulary_are_ignored():
    logits = [[4.0, 3.0, 2.0]]
    bias = {-1: 50.0, 3: 50.0, 2**31 - 1: 50.0, 2: 2.5}
    assert tokens_of(logits, [Wish(bias=bias)]) == [2]


def test_only_allowed_tokens_are_sampled_and_their_bias_counts():
    logits = [[9.0, 3.0, 2.0, 1.0]]
    wish = Wish(bias={1: 0.0, 2: 1.5}, is_allow_only=True)
    assert tokens_of(logits, [wish]) == [2]
    everywhere = [
        dataclasses.replace(wish, temperature=50.0, seed=s) for s in range(32)
    ]
    assert set(tokens_of(logits * 32, everywhere)) == {1, 2}


def test_a_row_with_every_token_barred_says_so():
    wishes = [
        Wish(bias={VOCAB: 0.0}, is_allow_only=True, temperature=t) for t in (0.0, 1.0)
    ]
    sampled, _ = run(np.ones((2, 3), np.float32), wishes)
    assert sampled.tokens.tolist() == [sampling.NONE_ALLOWED] * 2


def test_a_mask_leaves_the_rows_beside_it_alone():
    logits = [[9.0, 3.0, 2.0, 1.0]] * 2
    for temperature in (0.0, 3.0):
        wishes = [Wish(temperature=temperature, seed=s) for s in range(2)]
        masked = dataclasses.replace(wishes[0], let_through=frozenset([2, 3]))
        alone = tokens_of(logits, wishes)
        beside = tokens_of(logits, [masked, wishes[1]])
        assert beside[0] in (2, 3)
        assert beside[1] == alone[1]


def test_stop_tokens_are_barred_until_min_tokens_is_reached():
    logits = [[1.0, 5.0, 4.0, 3.0]]
    barred = Wish(stops=(1, 2), is_stop_barred=True)
    assert tokens_of(logits, [barred]) == [3]
    assert tokens_of(logits, [Wish(stops=(1, 2))]) == [1]
    # a neighbour that is barred changes nothing for the row that is not
    assert tokens_of(logits * 2, [Wish(stops=(1, 2)), barred]) == [1, 3]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_reported_and_disturbs_nobody(poison):
    logits = np.random.default_rng(1).standard_normal((4, VOCAB)).astype(np.float32)
    batch = [
        Wish(
            temperature=0.9 * (row % 2),
            seed=row,
            top_p=0.9,
            top_k=30,
            presence=0.1,
            generated=(3,),
            bias={5: 1.0},
        )
        for row in range(4)
    ]
    clean, _ = run(logits, batch)
    for bad in range(4):
        poisoned = logits.copy()
        poisoned[bad, 17] = poison
        sampled, _ = run(poisoned, batch)
        expected = clean.tokens.tolist()
        expected[bad] = -1
        assert sampled.tokens.tolist() == expected


def test_a_tokens_draw_does_not_depend_on_batch_slot_or_what_others_want():
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((32, VOCAB)).astype(np.float32)
    plain = Wish(temperature=1.0, seed=2**40 + 5, position=77)
    busy = Wish(
        temperature=0.7,
        top_k=9,
        top_p=0.8,
        min_p=0.1,
        presence=1.0,
        generated=(1, 2),
        bias={4: 1.0},
        stops=(9,),
        is_stop_barred=True,
        seed=1,
    )
    row = rows_for([plain])
    row.slot[:] = 5
    alone, _ = sample(logits[:1], state_for([plain]), row, wants=sampling.wants_of(row))
    crowd = [dataclasses.replace(plain, seed=row) for row in range(32)]
    crowd[19] = plain
    shuffled = logits.copy()
    shuffled[19] = logits[0]
    quiet = tokens_of(shuffled, crowd, slots=rng.permutation(32))
    others = [plain if row == 19 else busy for row in range(32)]
    loud = tokens_of(shuffled, others)
    assert [quiet[19], loud[19]] == [int(alone.tokens[0])] * 2


def test_a_tokens_draw_does_not_change_when_wanting_logprobs():
    logits = np.random.default_rng(3).standard_normal((4, VOCAB)).astype(np.float32)
    batch = [Wish(temperature=1.0, seed=row) for row in range(4)]
    sampled, _ = run(logits, batch, wants_logprobs=True)
    assert sampled.tokens.tolist() == tokens_of(logits, batch)


def test_logprobs_are_those_of_the_raw_logits():
    logits = np.random.default_rng(4).standard_normal((2, VOCAB)).astype(np.float32) * 4
    batch = [Wish(bias={11: 60.0}), Wish(temperature=3.0, seed=1, top_k=3)]
    sampled, _ = run(logits, batch, wants_logprobs=True)
    assert sampled.logprobs is not None
    exact = logits.astype(np.float64)
    exact = exact - np.log(np.exp(exact).sum(1, keepdims=True))
    best = np.argsort(-exact, axis=1)[:, :20]
    assert sampled.tokens[0] == 11
    assert sampled.logprobs.top_ids.tolist() == best.tolist()
    np.testing.assert_allclose(
        sampled.logprobs.top, np.take_along_axis(exact, best, 1), atol=1e-5
    )
    np.testing.assert_allclose(
        sampled.logprobs.chosen, exact[[0, 1], np.asarray(sampled.tokens)], atol=1e-5
    )


def test_prompt_logprobs_with_a_tiny_vocabulary_are_filled_up():
    logits = jnp.log(jnp.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], jnp.float32))
    logprob, ids, tops = sampling.token_logprobs(logits, jnp.array([2, 2], jnp.int32))
    np.testing.assert_allclose(np.exp(logprob), [0.25, 0.8], rtol=1e-6)
    assert ids[:, :3].tolist() == [[1, 0, 2], [2, 0, 1]]
    np.testing.assert_allclose(np.exp(tops[0, :3]), [0.5, 0.25, 0.25], rtol=1e-6)
    assert np.isneginf(np.asarray(tops[:, 3:])).all()
    assert ids.shape == tops.shape == (2, 20)


def test_counting_step_by_step_equals_observing_the_whole_history():
    rng = np.random.default_rng(5)
    wish = Wish(
        temperature=0.8, presence=0.3, frequency=0.2, repetition=1.2, prompt=(5, 6, 7)
    )
    state = state_for([wish])
    told = []
    for position in range(30):
        moved = dataclasses.replace(wish, position=position)
        logits = rng.standard_normal((2, 50))
        sampled, state = run(logits, [moved, Wish()], state=state)
        told.append(int(sampled.tokens[0]))
    again = state_for([dataclasses.replace(wish, generated=tuple(told))])
    np.testing.assert_array_equal(state.output_counts[0], again.output_counts[0])
    np.testing.assert_array_equal(state.prompt_seen[0], again.prompt_seen[0])
    assert int(state.last_token[0]) == told[-1]
    assert not state.output_counts[1].any(), "a row without penalties counts nothing"


def test_a_new_request_finds_nothing_of_the_slots_last_owner():
    old = Wish(
        presence=5.0,
        repetition=2.0,
        prompt=(1, 2),
        generated=(0, 0),
        bias={3: 9.0},
        is_allow_only=True,
        stops=(0,),
    )
    state = state_for([old, old])
    state = admit(state, slot=0, wish=Wish())
    fresh = sampling.init_row_state(rows=32, vocab_size=VOCAB)
    for now, empty in zip(state, fresh, strict=True):
        np.testing.assert_array_equal(now[0], empty[0])
    assert state.output_counts[1, :3].tolist() == [2, 0, 0]


def test_a_row_without_bias_ignores_what_its_slot_holds():
    biased = Wish(bias={2: 50.0}, is_allow_only=True)
    state = state_for([biased, biased])
    logits = [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert tokens_of(logits, [Wish(), biased], state=state) == [1, 2]


def test_padding_rows_write_the_scratch_slot_only():
    scratch = 32
    logits = [[0.0, 0.0, 0.0, 1.0]] * 3
    wishes = [Wish(presence=0.1), Wish(), Wish(presence=0.1)]
    _, state = run(logits, wishes, state=state_for([]), slots=[1, 2, scratch])
    assert state.last_token[:5].tolist() == [0, 3, 3, 0, 0]
    assert state.output_counts[:5, 3].tolist() == [0, 1, 0, 0, 0]


def test_an_empty_state_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0 and 5"):
        sampling.init_row_state(rows=0, vocab_size=5)


def test_chunks_cut_prompt_and_output_in_order():
    chunks = sampling.token_chunks([7, 8, 9, 1], generated=[4, 5], chunk_tokens=3)
    assert [
        (c.tokens.tolist(), int(c.num_prompt), int(c.num_valid)) for c in chunks
    ] == [
        ([7, 8, 9], 3, 3),
        ([1, 4, 5], 1, 3),
    ]
    (only,) = sampling.token_chunks([], generated=[4], chunk_tokens=3)
    assert (only.tokens.tolist(), only.num_prompt, only.num_valid) == ([4, 0, 0], 0, 1)


MIXES = {
    "greedy": Wish(),
    "random": Wish(temperature=1.0),
    "top_k": Wish(temperature=1.0, top_k=3),
    "top_p": Wish(temperature=1.0, top_p=0.5),
    "penalty": Wish(repetition=1.1),
    "bias": Wish(bias={1: 2.0}),
    "stop": Wish(is_stop_barred=True, stops=(0,)),
    "all": Wish(temperature=1.0, top_k=3, repetition=1.1, bias={1: 2.0}),
}


def of_ones(rows: int, vocab: int) -> sampling.Logits:
    values = jnp.ones((rows, vocab), jnp.float32)
    return sampling.Logits(values=values, are_finite=jnp.ones(rows, jnp.bool_))


def test_no_mix_of_parameters_compiles_anything() -> None:
    own = sampling.Sampler.jitted(platform="cpu")
    state = sampling.init_row_state(rows=2, vocab_size=64)
    logits = of_ones(2, 64)
    padding = sampling.pack_rows(sampling.greedy_rows(2, slot=2))
    mask = open_mask(2, 64)
    for wants in sampling.ALL_VARIANTS:
        _, state = own.sample(logits, state, padding, wants=wants, mask=mask)
    compiled = CompilationCounter()
    for wish in MIXES.values():
        told = sampling.Want.LOGPROBS | sampling.Want.PROCESSED
        for extra in (
            sampling.NOTHING,
            sampling.Want.LOGPROBS,
            told,
            sampling.Want.MASK,
        ):
            rows = rows_for([wish, Wish()])
            wants = sampling.wants_of(rows) | extra
            _, state = own.sample(
                logits, state, sampling.pack_rows(rows), wants=wants, mask=mask
            )
    assert compiled.count == 0


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_no_program_branches_or_loops(platform: str) -> None:
    own = sampling.Sampler.jitted(platform=platform)
    state = sampling.init_row_state(rows=2, vocab_size=64)
    padding = sampling.pack_rows(sampling.greedy_rows(2, slot=2))
    programs = own.traced(of_ones(2, 64), state, padding)
    assert len(programs) == 8
    for program in programs:
        text = program.lower(lowering_platforms=(platform,)).as_text()
        assert "func.func public @main" in text
        assert not re.search(r"stablehlo\.(while|case|if)\b", text)


def test_greedy_rows_answer_alike_in_every_program() -> None:
    logits = np.random.default_rng(6).standard_normal((8, VOCAB)).astype(np.float32)
    values = jnp.asarray(logits)
    rows = rows_for([Wish()] * 8)
    answers = [
        sample(values, state_for([]), rows, wants=wants)[0].tokens.tolist()
        for wants in sampling.ALL_VARIANTS
    ]
    assert answers == [logits.argmax(axis=1).tolist()] * len(sampling.ALL_VARIANTS)


def test_the_donated_state_is_updated_in_place_without_a_copy() -> None:
    state = sampling.init_row_state(rows=64, vocab_size=4096)
    rows = rows_for([Wish(temperature=1.0, presence=1.0), Wish()])
    before = [leaf.unsafe_buffer_pointer() for leaf in state]
    _, after = sampler.sample(
        of_ones(2, 4096),
        state,
        sampling.pack_rows(rows),
        wants=sampling.EVERYTHING,
        mask=open_mask(2, 4096),
    )
    assert [leaf.unsafe_buffer_pointer() for leaf in after] == before


def test_setting_and_observing_a_row_copy_nothing():
    state = sampling.init_row_state(rows=64, vocab_size=4096)
    before = [leaf.unsafe_buffer_pointer() for leaf in state]
    state = admit(state, slot=3, wish=Wish(prompt=(1, 2), generated=(4,)))
    assert [leaf.unsafe_buffer_pointer() for leaf in state] == before

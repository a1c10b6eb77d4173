"""Prompts begin once, are padded on the left, and are asked for as Tunix says."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.integrations.tunix.prompts import (
    encode,
    pad_left,
    sampling_params,
    seeded,
    without_padding,
)
from tests.integrations.standin import PAD, RolloutConfig, Words

ROWS = st.lists(st.lists(st.integers(1, 9), max_size=9), min_size=1, max_size=4)


class NoBegin(Words):
    def __init__(self, bos):
        self.bos = bos

    def bos_id(self):
        return self.bos


@pytest.mark.parametrize("text", ["t5 t6", "t1 t5 t6", "t1 t1 t1 t5 t6"])
def test_a_prompt_has_one_begin_of_text(text) -> None:
    assert encode(Words(), text) == [1, 5, 6]


@pytest.mark.parametrize("bos", [None, -1, 0])
def test_it_has_none_where_the_tokenizer_has_none(bos) -> None:
    assert encode(NoBegin(bos), "t5 t5") == [5, 5]


@given(rows=ROWS, length=st.integers(1, 6))
def test_rows_lie_on_the_right_of_their_padding(rows, length) -> None:
    padded = pad_left(rows, pad_id=PAD, length=length)
    longest = max(map(len, rows))
    assert padded.dtype == np.int32
    assert padded.shape[1] == (length if longest <= length else padded.shape[1])
    assert padded.shape[1] in (length, 1, 2, 4, 8, 16) and padded.shape[1] >= longest
    assert padded.shape[1] < 2 * max(longest, length)
    for row, found in zip(rows, padded, strict=True):
        assert [*[PAD] * (padded.shape[1] - len(row)), *row] == found.tolist()
        assert without_padding(found, pad_id=PAD, is_left=True) == row


def test_padding_in_the_middle_is_a_token() -> None:
    row = np.array([0, 3, 0, 4, 0])
    assert without_padding(row, pad_id=PAD, is_left=True) == [3, 0, 4, 0]
    assert without_padding(row, pad_id=PAD, is_left=False) == [0, 3, 0, 4]


def test_a_rollout_config_becomes_sampling_parameters() -> None:
    config = RolloutConfig(top_p=0.5, top_k=-1, eos_tokens=[7, 8])
    assert sampling_params(config) == SamplingParams(
        temperature=0.9,
        top_p=0.5,
        max_tokens=8,
        stop_token_ids=(7, 8),
        ignore_eos=True,
        logprobs=0,
        logprobs_mode="processed",
    )
    bare = RolloutConfig(top_p=None, top_k=3, return_logprobs=False)
    wanted = SamplingParams(temperature=0.9, top_k=3, max_tokens=8)
    assert sampling_params(bare) == wanted
    assert sampling_params(bare, min_p=0.1) == replace(wanted, min_p=0.1)
    with pytest.raises(TypeError, match="unheard"):
        sampling_params(bare, unheard=1)
    with pytest.raises(InvalidRequestError, match="temperature"):
        sampling_params(replace(bare, temperature=-1.0))


@pytest.mark.parametrize("seed", [7, jax.random.key(7), jax.random.PRNGKey(7)])
def test_each_prompt_of_each_call_has_a_seed_of_its_own(seed) -> None:
    params = SamplingParams()

    def seeds(call, count=3):
        return [one.seed for one in seeded(params, seed=seed, call=call, count=count)]

    assert seeds(0) == seeds(0) != seeds(1)
    assert len({*seeds(0), *seeds(1), *seeds(2)}) == 9
    assert seeds(0, count=1) == seeds(0)[:1]
    assert seeded(params, seed=None, call=0, count=2) == [params, params]

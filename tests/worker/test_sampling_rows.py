"""Rows travel as int32 columns without losing a bit; flags say what is wanted."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.worker import sampling

f32 = st.floats(width=32, allow_nan=True)
i32 = st.integers(-(2**31), 2**31 - 1)
u32 = st.integers(0, 2**32 - 1)
COLUMNS = [f32, i32, f32, f32, f32, f32, f32, u32, u32, i32, *[st.booleans()] * 3]
row_lists = st.lists(st.tuples(*COLUMNS), min_size=3, max_size=3)


@settings(max_examples=50, deadline=None)
@given(row_lists)
def test_unpacking_returns_the_bits_that_were_packed(values):
    kinds = [array.dtype for array in sampling.greedy_rows(1)]
    columns = [
        np.array(c, k) for c, k in zip(zip(*values, strict=True), kinds, strict=True)
    ]
    rows = sampling.SamplingRows(*columns)
    packed = sampling.pack_rows(rows)
    assert packed.dtype == np.int32
    assert packed.shape == (sampling.ROW_COLUMNS, 3)
    unpacked = jax.jit(sampling.unpack_rows)(packed)
    for name, there, back in zip(rows._fields, rows, unpacked, strict=True):
        assert there.dtype == back.dtype, name
        assert there.tobytes() == np.asarray(back).tobytes(), name


def flags_of(**changes):
    rows = sampling.greedy_rows(3)
    for name, value in changes.items():
        getattr(rows, name)[1] = value
    flags = sampling.unpack_flags(np.int32(sampling.flag_word(rows)))
    return {name for name, flag in flags._asdict().items() if flag}


def test_padding_rows_want_nothing():
    assert flags_of() == set()


def test_flags_name_what_one_row_wants():
    assert flags_of(temperature=0.5) == {"any_random"}
    assert flags_of(temperature=0.5, top_k=4) == {"any_random", "any_top_k"}
    assert flags_of(temperature=0.5, top_p=0.9) == {"any_random", "any_top_p"}
    assert flags_of(temperature=0.5, min_p=0.1) == {"any_random"}
    assert flags_of(presence=0.1) == {"any_penalty"}
    assert flags_of(frequency=-0.1) == {"any_penalty"}
    assert flags_of(repetition=1.1) == {"any_penalty"}
    assert flags_of(has_bias=True) == {"any_bias"}
    assert flags_of(suppress_stop=True) == {"any_bias"}
    assert flags_of(wants_logprobs=True) == {"any_logprobs"}


def test_a_greedy_row_needs_no_filter():
    assert flags_of(top_k=4, top_p=0.9) == set()

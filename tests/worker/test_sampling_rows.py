"""Rows travel as int32 columns without losing a bit; the host sees what they want."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.worker import sampling

f32 = st.floats(width=32, allow_nan=True)
i32 = st.integers(-(2**31), 2**31 - 1)
u32 = st.integers(0, 2**32 - 1)
COLUMNS = [i32, f32, i32, f32, f32, f32, f32, f32, u32, u32, i32, *[st.booleans()] * 3]
row_lists = st.lists(st.tuples(*COLUMNS), min_size=3, max_size=3)


@settings(max_examples=50, deadline=None)
@given(row_lists)
def test_unpacking_returns_the_bits_that_were_packed(values):
    kinds = [array.dtype for array in sampling.greedy_rows(1, slot=0)]
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


def wants(**changes: float) -> sampling.Want:
    rows = sampling.greedy_rows(3, slot=9)
    for name, value in changes.items():
        getattr(rows, name)[1] = value
    return sampling.wants_of(rows)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, sampling.NOTHING),
        ({"temperature": 0.5}, sampling.Want.RANDOM),
        ({"temperature": 0.5, "top_k": 4}, sampling.Want.RANDOM | sampling.Want.FILTER),
        (
            {"temperature": 0.5, "top_p": 0.9},
            sampling.Want.RANDOM | sampling.Want.FILTER,
        ),
        ({"temperature": 0.5, "min_p": 0.1}, sampling.Want.RANDOM),
        ({"presence": 0.1}, sampling.Want.PENALTY),
        ({"frequency": -0.1}, sampling.Want.PENALTY),
        ({"repetition": 1.1}, sampling.Want.PENALTY),
        ({"has_bias": True}, sampling.Want.BIAS),
        ({"suppress_stop": True}, sampling.Want.BIAS),
        ({"top_k": 4, "top_p": 0.9}, sampling.NOTHING),  # greedy: needs no filter
    ],
    ids=str,
)
def test_one_row_that_wants_something_is_enough(
    changes: dict[str, float], wanted: sampling.Want
) -> None:
    assert wants(**changes) == wanted

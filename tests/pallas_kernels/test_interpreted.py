"""The Pallas bodies, interpreted on a CPU, against the float64 oracle.

The interpreter gives outputs that nobody has written the value NaN.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pallas_kernels import cases, oracle
from tests.pallas_kernels.cases import HEADS, TOLERANCE, Options
from tests.pallas_kernels.oracle import Row, Sizes

BOTH = pytest.mark.parametrize("decode", [True, False], ids=["decode", "mixed"])
BODIES = pytest.mark.parametrize("backend", ["triton", "mosaic_tpu"])


@BODIES
@BOTH
@pytest.mark.parametrize("head", [64, pytest.param(128, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_matches_the_oracle(
    backend: str, decode: bool, head: int, dtype: str
) -> None:
    options = Options(backend=backend, decode=decode)
    batch = cases.make(options, head=head, dtype=dtype)
    assert cases.error(batch, options) <= TOLERANCE[dtype]


@BODIES
@pytest.mark.parametrize("head", HEADS)
def test_every_head_size_matches_the_oracle(backend: str, head: int) -> None:
    options = Options(backend=backend, decode=True)
    batch = cases.make(options, head=head, dtype="float32")
    assert cases.error(batch, options) <= 1e-6


@BODIES
@pytest.mark.parametrize(("kv_heads", "group"), [(1, 8), (4, 1), (2, 3)])
def test_every_head_layout_matches_the_oracle(
    backend: str, kv_heads: int, group: int
) -> None:
    options = Options(backend=backend)
    batch = cases.make(options, kv_heads=kv_heads, group=group, head=64)
    assert cases.error(batch, options) <= 1e-6


@BODIES
@BOTH
@pytest.mark.parametrize(
    ("window", "soft_cap"), [(1, None), (40, 3.0), (None, 0.5)], ids=str
)
def test_window_and_soft_cap_match_the_oracle(
    backend: str, decode: bool, window: int | None, soft_cap: float | None
) -> None:
    options = Options(backend=backend, decode=decode, window=window, soft_cap=soft_cap)
    assert cases.error(cases.make(options, head=64), options) <= 1e-6


@BODIES
@BOTH
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_a_quantised_pool_matches_the_oracle_over_what_it_holds(
    backend: str, decode: bool, dtype: str
) -> None:
    options = Options(backend=backend, decode=decode)
    batch, pool = cases.quantize(cases.make(options, head=64), dtype)
    assert cases.error(batch, options, pool=pool) <= 1e-6


@BODIES
def test_a_quantised_pool_under_bfloat16_queries_matches_the_oracle(
    backend: str,
) -> None:
    options = Options(backend=backend, decode=True, window=40)
    batch = cases.make(options, head=64, dtype="bfloat16")
    batch, pool = cases.quantize(batch, "int8")
    assert cases.error(batch, options, pool=pool) <= 2e-3


def test_the_reference_reads_quantised_pools_too() -> None:
    for decode in (True, False):
        options = Options(backend="xla", decode=decode, interpret=False, window=40)
        batch, pool = cases.quantize(cases.make(options, head=64), "int8")
        assert cases.error(batch, options, pool=pool) <= 1e-6


def test_long_rows_are_split_among_programs_and_joined() -> None:
    sizes = Sizes(tokens=3, rows=3, kv_heads=1, head=64, table=256, pages=400)
    rows = [Row(new=1, context=4096), Row(new=1, context=1500), Row(new=1, context=3)]
    batch = oracle.make_batch(rows, sizes)
    assert cases.error(batch, Options(backend="triton", decode=True)) <= 1e-6
    batch = oracle.make_batch(rows, sizes, window=700)
    options = Options(backend="triton", decode=True, window=700)
    assert cases.error(batch, options) <= 1e-6


@BODIES
def test_a_mixed_batch_with_a_long_row_matches_the_oracle(backend: str) -> None:
    sizes = Sizes(tokens=200, rows=3, kv_heads=1, head=64, table=128, pages=200)
    rows = [Row(new=1, context=2000), Row(new=150, context=1111)]
    batch = oracle.make_batch(rows, sizes)
    assert cases.error(batch, Options(backend=backend)) <= 1e-6


@BODIES
@BOTH
def test_tokens_of_no_row_come_out_as_zeros(backend: str, decode: bool) -> None:
    options = Options(backend=backend, decode=decode)
    batch = cases.make(options, head=64)
    last = int(batch.cu_q_lens[-1])
    got = cases.run(batch, options)
    assert np.all(got[last:] == 0.0)
    assert np.all(np.any(got[:last] != 0.0, axis=(1, 2)))
    empty = oracle.make_batch([], Sizes(tokens=6, rows=6, head=64, pages=2, table=3))
    assert np.all(cases.run(empty, options) == 0.0)


@BODIES
@BOTH
@pytest.mark.parametrize("which", [0, 1], ids=["keys", "values"])
def test_a_row_that_is_not_finite_spoils_no_other(
    backend: str, decode: bool, which: int
) -> None:
    options = Options(backend=backend, decode=decode)
    batch = cases.make(options, head=64)
    batch.pool[batch.page_table[1, 1], oracle.LAYER, which, :, 0] = np.nan
    row = 3 if decode else 1  # decode row 1 has one page; row 3 has a second one
    batch.pool[batch.page_table[row, 1], oracle.LAYER, which, :, 0] = np.nan
    finite = np.isfinite(cases.run(batch, options)).all(axis=(1, 2))
    begin, end = batch.cu_q_lens[row : row + 2]
    bad = [begin <= t < end for t in range(len(finite))]
    assert (~finite).tolist() == bad


LENGTHS = st.one_of(st.integers(1, 160), st.sampled_from([1, 15, 16, 17, 64, 65, 160]))


@st.composite
def mixed_rows(draw: st.DrawFn) -> list[Row]:
    rows: list[Row] = []
    left = 96
    for _ in range(draw(st.integers(0, 5))):
        context = draw(LENGTHS)
        new = min(left, draw(st.sampled_from([0, 1, 1, context, 33])), context)
        rows.append(Row(new=new, context=context))
        left -= new
    return rows


def check_any_rows(options: Options, rows: list[Row], **how: Any) -> None:
    tokens = 5 if options.decode else 96
    sizes = Sizes(tokens=tokens, rows=5, head=32, table=10, pages=64)
    batch = oracle.make_batch(rows, sizes, window=options.window, **how)
    assert cases.error(batch, options) <= 1e-6


@BODIES
@settings(max_examples=25, deadline=None)
@given(rows=mixed_rows(), seed=st.integers(0, 2**16), shared=st.integers(0, 3))
def test_any_mix_of_rows_matches_the_oracle(
    backend: str, rows: list[Row], seed: int, shared: int
) -> None:
    check_any_rows(Options(backend=backend), rows, seed=seed, shared_pages=shared)


@BODIES
@settings(max_examples=25, deadline=None)
@given(contexts=st.lists(LENGTHS, max_size=5), seed=st.integers(0, 2**16))
def test_any_decode_batch_in_a_window_matches_the_oracle(
    backend: str, contexts: list[int], seed: int
) -> None:
    rows = [Row(new=1, context=context) for context in contexts]
    options = Options(backend=backend, decode=True, window=50)
    check_any_rows(options, rows, seed=seed)

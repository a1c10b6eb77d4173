"""The Pallas bodies, interpreted on a CPU, against the float64 oracle.

The interpreter gives outputs that nobody has written the value NaN. Compiling is what
takes time here: tests share shapes and options where they can.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pallas_kernels import cases, oracle
from tests.pallas_kernels.cases import HEADS, TOLERANCE, Options, interpreted
from tests.pallas_kernels.oracle import Row, Sizes

BOTH = pytest.mark.parametrize("decode", [True, False], ids=["decode", "mixed"])
BODIES = pytest.mark.parametrize("backend", ["triton", "mosaic_tpu"])
PLAIN, WINDOWED = {}, {"window": 40, "soft_cap": 3.0}
EXTRAS = st.sampled_from([PLAIN, WINDOWED])  # each is compiled once
LENGTHS = st.one_of(st.integers(1, 250), st.sampled_from([1, 15, 16, 17, 64, 65, 250]))
LONG = st.one_of(
    st.integers(1, 2560), st.sampled_from([1, 16, 17, 511, 512, 513, 2560])
)


@st.composite
def mixed_rows(draw: st.DrawFn) -> list[Row]:
    rows: list[Row] = []
    left = 72
    for _ in range(draw(st.integers(0, 6))):
        context = draw(st.integers(1, 96) if rows else LENGTHS)
        new = min(left, draw(st.sampled_from([0, 1, 1, context, 33])), context)
        rows.append(Row(new=new, context=context))
        left -= new
    return rows


def check(options: Options, rows: list[Row], sizes: Sizes, **how: Any) -> None:
    batch = oracle.make_batch(rows, sizes, window=options.window, **how)
    assert cases.error(batch, options) <= 1e-6
    got = cases.run(batch, options)
    assert np.all(got[batch.cu_q_lens[-1] :] == 0.0)


@BODIES
@settings(max_examples=16, deadline=None)
@given(
    rows=mixed_rows(), seed=st.integers(0, 2**16), shared=st.integers(0, 3), how=EXTRAS
)
def test_any_mix_of_rows_matches_the_oracle(
    backend: str, rows: list[Row], seed: int, shared: int, how: dict[str, Any]
) -> None:
    sizes = Sizes(tokens=72, rows=6, head=64, table=16, pages=100)
    check(interpreted(backend, **how), rows, sizes, seed=seed, shared_pages=shared)


@BODIES
@settings(max_examples=20, deadline=None)
@given(
    contexts=st.lists(LONG, max_size=3),
    seed=st.integers(0, 2**16),
    shared=st.integers(0, 3),
)
def test_any_decode_batch_matches_the_oracle(
    backend: str, contexts: list[int], seed: int, shared: int
) -> None:
    """Up to thousands of tokens, which Triton splits among eight programs."""
    rows = [Row(new=1, context=context) for context in contexts]
    sizes = Sizes(tokens=4, rows=4, kv_heads=1, group=4, head=64, table=160, pages=500)
    options = interpreted(backend, decode=True)
    check(options, rows, sizes, seed=seed, shared_pages=shared)


@BODIES
@BOTH
@pytest.mark.parametrize("which", [0, 1], ids=["keys", "values"])
def test_a_row_that_is_not_finite_spoils_no_other(
    backend: str, decode: bool, which: int
) -> None:
    options = interpreted(backend, decode=decode)
    batch = cases.make(options, pages=100)
    row = 3 if decode else 1  # of several pages
    batch.pool[batch.page_table[row, 1], oracle.LAYER, which, :, 0] = np.nan
    finite = np.isfinite(cases.run(batch, options)).all(axis=(1, 2))
    begin, end = batch.cu_q_lens[row : row + 2]
    assert np.all(finite[:begin]) and np.all(finite[end:])
    assert not finite[end - 1]


@BODIES
@pytest.mark.parametrize(
    ("decode", "window", "soft_cap"),
    [
        pytest.param(True, 40, 3.0, marks=pytest.mark.slow),
        pytest.param(False, 40, 3.0, marks=pytest.mark.slow),  # as drawn above
        pytest.param(True, 1, None, marks=pytest.mark.slow),
        pytest.param(False, 1, None, marks=pytest.mark.slow),
        pytest.param(False, None, 0.5, marks=pytest.mark.slow),
    ],
)
def test_window_and_soft_cap_match_the_oracle(
    backend: str, decode: bool, window: int | None, soft_cap: float | None
) -> None:
    options = interpreted(backend, decode=decode, window=window, soft_cap=soft_cap)
    assert cases.error(cases.make(options), options) <= 1e-6


@pytest.mark.parametrize(
    ("backend", "decode", "dtype", "q_dtype"),
    [
        ("triton", True, "int8", "bfloat16"),
        ("triton", False, "float8_e4m3fn", "float32"),
        ("mosaic_tpu", True, "int8", "bfloat16"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("triton", True, "float8_e4m3fn", "bfloat16"),
                ("triton", False, "int8", "float32"),
                ("mosaic_tpu", False, "float8_e4m3fn", "float32"),
                ("mosaic_tpu", True, "float8_e4m3fn", "float32"),
                ("mosaic_tpu", False, "int8", "float32"),
            ]
        ),
    ],
)
def test_a_quantised_pool_matches_the_oracle_over_what_it_holds(
    backend: str, decode: bool, dtype: str, q_dtype: str
) -> None:
    options = interpreted(backend, decode=decode, window=100 if decode else None)
    batch, pool = cases.quantize(cases.make(options, dtype=q_dtype), dtype)
    assert cases.error(batch, options, pool=pool) <= TOLERANCE[q_dtype]


@pytest.mark.parametrize(
    ("decode", "dtype"), [(True, "float8_e4m3fn"), (False, "int8")]
)
def test_the_reference_reads_quantised_pools_too(decode: bool, dtype: str) -> None:
    options = Options(backend="xla", decode=decode, interpret=False, window=40)
    batch, pool = cases.quantize(cases.make(options), dtype)
    assert cases.error(batch, options, pool=pool) <= 1e-6


@pytest.mark.slow  # as drawn above, with more programs
def test_long_rows_are_split_among_programs_and_joined() -> None:
    sizes = Sizes(tokens=3, rows=3, kv_heads=1, head=64, table=256, pages=400)
    rows = [Row(new=1, context=4096), Row(new=1, context=1500), Row(new=1, context=3)]
    batch = oracle.make_batch(rows, sizes)
    assert cases.error(batch, interpreted("triton", decode=True)) <= 1e-6


@pytest.mark.slow
def test_long_rows_are_split_within_a_window() -> None:
    sizes = Sizes(tokens=3, rows=3, kv_heads=1, head=64, table=256, pages=400)
    rows = [Row(new=1, context=4096), Row(new=1, context=1500), Row(new=1, context=3)]
    batch = oracle.make_batch(rows, sizes, window=700)
    options = interpreted("triton", decode=True, window=700)
    assert cases.error(batch, options) <= 1e-6


@pytest.mark.parametrize("head", [96, pytest.param(256, marks=pytest.mark.slow)])
def test_head_sizes_match_the_oracle(head: int) -> None:
    options = interpreted("triton", decode=True)
    batch = cases.make(options, head=head, dtype="bfloat16")
    assert cases.error(batch, options) <= 2e-3


@pytest.mark.slow
@BODIES
@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_size_matches_the_oracle(
    backend: str, decode: bool, dtype: str, head: int
) -> None:
    options = interpreted(backend, decode=decode)
    batch = cases.make(options, head=head, dtype=dtype)
    assert cases.error(batch, options) <= TOLERANCE[dtype]


@pytest.mark.slow
@BODIES
@BOTH
@pytest.mark.parametrize(("kv_heads", "group"), [(1, 8), (4, 1), (2, 3), (1, 16)])
def test_every_head_layout_matches_the_oracle(
    backend: str, decode: bool, kv_heads: int, group: int
) -> None:
    options = interpreted(backend, decode=decode)
    batch = cases.make(options, kv_heads=kv_heads, group=group)
    assert cases.error(batch, options) <= 1e-6


@pytest.mark.slow
@BODIES
def test_a_mixed_batch_with_long_rows_matches_the_oracle(backend: str) -> None:
    sizes = Sizes(tokens=200, rows=3, kv_heads=1, head=64, table=128, pages=200)
    rows = [Row(new=1, context=2000), Row(new=150, context=1111)]
    batch = oracle.make_batch(rows, sizes)
    assert cases.error(batch, Options(backend=backend)) <= 1e-6


@pytest.mark.parametrize(
    "backend", ["mosaic_tpu", pytest.param("triton", marks=pytest.mark.slow)]
)
def test_a_pool_may_have_wider_heads_than_the_queries(backend: str) -> None:
    options = Options(backend=backend, decode=True)
    batch = cases.make(options, dtype="bfloat16", head=80)
    pool = np.zeros((*batch.pool.shape[:5], 128), batch.pool.dtype)
    pool[..., :80] = batch.pool
    assert cases.error(batch, options, pool=pool) <= 2e-3

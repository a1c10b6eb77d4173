"""Every body of the attention op against the float64 oracle."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.pallas_kernels import ragged_paged_attention
from tests.pallas_kernels import oracle
from tests.pallas_kernels.cases import QUICK
from tests.pallas_kernels.oracle import Batch, Row, Sizes

TOLERANCE = {"float32": 1e-6, "bfloat16": 2e-3}
MIXED = Sizes(tokens=320, rows=6)
DECODE = Sizes(tokens=6, rows=6)


STATIC = ("sm_scale", "window", "soft_cap", "decode")
ATTEND = jax.jit(ragged_paged_attention, static_argnames=STATIC)
QUICKLY = jax.jit(
    ragged_paged_attention, static_argnames=STATIC, compiler_options=QUICK
)


def run(batch: Batch, *, once: bool = False, **options: Any) -> oracle.Array:
    """`once`: compiled faster, since no other test has its shapes and options."""
    options = {"decode": False, **options}  # one spelling, one program
    call = QUICKLY if once else ATTEND
    got = call(
        jnp.asarray(batch.q),
        jnp.asarray(batch.pool),
        layer=jnp.int32(oracle.LAYER),
        page_table=jnp.asarray(batch.page_table),
        kv_lens=jnp.asarray(batch.kv_lens),
        cu_q_lens=jnp.asarray(batch.cu_q_lens),
        sm_scale=batch.q.shape[2] ** -0.5,
        **options,
    )
    return np.asarray(got)


def error(
    batch: Batch, *, decode: bool = False, once: bool = False, **options: Any
) -> float:
    want = oracle.attend(batch, sm_scale=batch.q.shape[2] ** -0.5, **options)
    got = run(batch, once=once, decode=decode, **options)
    return oracle.relative_error(got, want)


LENGTHS = st.one_of(
    st.integers(1, 384), st.sampled_from([1, 15, 16, 17, 127, 128, 129, 384])
)


@st.composite
def ragged_rows(draw: st.DrawFn) -> list[Row]:
    rows: list[Row] = []
    left = MIXED.tokens
    for _ in range(draw(st.integers(0, MIXED.rows))):
        context = draw(LENGTHS)
        new = min(left, draw(st.sampled_from([0, 1, 1, context, context // 2, 64, 65])))
        rows.append(Row(new=min(new, context), context=context))
        left -= rows[-1].new
    return rows


@settings(max_examples=25, deadline=None)
@given(ragged_rows(), st.integers(0, 2**16), st.integers(0, 5))
def test_any_mix_of_rows_matches_the_oracle(
    rows: list[Row], seed: int, shared_pages: int
) -> None:
    batch = oracle.make_batch(rows, MIXED, seed=seed, shared_pages=shared_pages)
    assert error(batch) <= 1e-6


@settings(max_examples=40, deadline=None)
@given(st.lists(LENGTHS, max_size=6), st.integers(0, 2**16))
def test_any_decode_batch_matches_the_oracle(contexts: list[int], seed: int) -> None:
    rows = [Row(new=1, context=context) for context in contexts]
    assert error(oracle.make_batch(rows, DECODE, seed=seed), decode=True) <= 1e-6


@settings(max_examples=12, deadline=None)
@given(ragged_rows(), st.integers(0, 2**16))
def test_a_window_hides_older_positions_even_when_they_are_nan(
    rows: list[Row], seed: int
) -> None:
    batch = oracle.make_batch(rows, MIXED, seed=seed, window=50)
    assert error(batch, window=50, soft_cap=3.0) <= 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1], ids=["keys", "values"])
@pytest.mark.parametrize("decode", [False, True])
def test_a_row_that_is_not_finite_spoils_no_other(
    decode: bool, which: int, bad: float
) -> None:
    contexts = [100, 90, 70, 3]
    news = [1, 1, 1, 1] if decode else [1, 1, 20, 3]
    rows = [Row(new=n, context=c) for n, c in zip(news, contexts, strict=True)]
    batch = oracle.make_batch(rows, DECODE if decode else MIXED)
    batch.pool[batch.page_table[1, 0], oracle.LAYER, which] = bad
    finite = np.isfinite(run(batch, decode=decode)).all(axis=(1, 2))
    assert finite.tolist() == [token != 1 for token in range(len(finite))]


@pytest.mark.parametrize(
    ("kv_heads", "group", "head", "dtype"),
    [
        (1, 8, 32, "float32"),
        pytest.param(4, 1, 64, "float32", marks=pytest.mark.slow),
        pytest.param(2, 4, 128, "float32", marks=pytest.mark.slow),
        pytest.param(1, 2, 256, "float32", marks=pytest.mark.slow),
        (2, 3, 64, "bfloat16"),
    ],
)
def test_every_head_layout_matches_the_oracle(
    kv_heads: int, group: int, head: int, dtype: str
) -> None:
    sizes = Sizes(
        tokens=100,
        rows=6,
        kv_heads=kv_heads,
        group=group,
        head=head,
        table=20,
        pages=40,
        dtype=dtype,
    )
    lengths = [(1, 1), (1, 16), (16, 17), (70, 100), (1, 300)]
    rows = [Row(new=new, context=context) for new, context in lengths]
    assert error(oracle.make_batch(rows, sizes), once=True) <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("options", "decode"),
    [
        pytest.param({"window": 1}, False, marks=pytest.mark.slow),
        pytest.param({"soft_cap": 3.0}, False, marks=pytest.mark.slow),
        pytest.param({"window": 7, "soft_cap": 0.5}, False, marks=pytest.mark.slow),
        ({"window": 20, "soft_cap": 3.0}, True),
    ],
)
def test_window_and_soft_cap_match_the_oracle(
    options: dict[str, Any], decode: bool
) -> None:
    sizes = DECODE if decode else MIXED
    rows = [
        Row(new=1 if decode else new, context=context)
        for new, context in [(1, 130), (130, 260), (64, 64), (1, 1)]
    ]
    batch = oracle.make_batch(rows, sizes, window=options.get("window"))
    assert error(batch, decode=decode, once=True, **options) <= 1e-6


def test_more_rows_than_lanes_match_the_oracle() -> None:
    sizes = Sizes(tokens=40, rows=40, table=4)
    rows = [Row(new=1, context=1 + 9 * b % 64) for b in range(40)]
    assert error(oracle.make_batch(rows, sizes), decode=True, once=True) <= 1e-6


def test_empty_rows_between_others_do_not_matter() -> None:
    rows = [Row(new=0, context=0), Row(new=1, context=40), Row(new=0, context=33)]
    rows += [Row(new=70, context=70), Row(new=0, context=0), Row(new=1, context=200)]
    assert error(oracle.make_batch(rows, MIXED)) <= 1e-6


def test_tokens_of_no_row_come_out_as_zeros() -> None:
    batch = oracle.make_batch([Row(new=70, context=90), Row(new=1, context=40)], MIXED)
    got = run(batch)
    assert np.all(got[71:] == 0.0)
    assert not np.any(np.all(got[:71] == 0.0, axis=(1, 2)))


def test_an_empty_batch_comes_out_as_zeros() -> None:
    assert np.all(run(oracle.make_batch([], MIXED)) == 0.0)
    assert np.all(run(oracle.make_batch([], DECODE), decode=True) == 0.0)


def test_table_entries_past_the_last_page_do_not_matter() -> None:
    batch = oracle.make_batch([Row(new=40, context=40), Row(new=1, context=16)], MIXED)
    before = run(batch)
    batch.page_table[0, 3:] = 7
    batch.page_table[1, 1:] = 9
    np.testing.assert_array_equal(run(batch), before)


@pytest.mark.parametrize("width", [1, 13])
def test_the_table_may_have_any_width(width: int) -> None:
    sizes = Sizes(tokens=20, rows=2, table=width, pages=40)
    rows = [Row(new=10, context=16 * width), Row(new=1, context=16 * width)]
    assert error(oracle.make_batch(rows, sizes), once=True) <= 1e-6


def test_chunks_of_a_prompt_give_the_same_as_the_whole_prompt() -> None:
    whole = oracle.make_batch([Row(new=300, context=300)], MIXED)
    want = run(whole)[:300]
    for begin, end in [(0, 100), (100, 101), (101, 300)]:
        q = np.zeros_like(whole.q)
        q[: end - begin] = whole.q[begin:end]
        chunk = Batch(
            q=q,
            pool=whole.pool,
            page_table=whole.page_table,
            kv_lens=np.where(whole.kv_lens > 0, end, 0).astype(np.int32),
            cu_q_lens=np.minimum(whole.cu_q_lens, end - begin).astype(np.int32),
        )
        got = run(chunk)[: end - begin]
        np.testing.assert_allclose(got, want[begin:end], rtol=0, atol=2e-6)


Arguments = dict[str, Any]


def arguments(**changes: Any) -> Arguments:
    return {
        "q": jnp.zeros((4, 4, 32)),
        "pool": jnp.zeros((5, 2, 2, 2, 16, 32)),
        "layer": 0,
        "page_table": jnp.zeros((3, 2), jnp.int32),
        "kv_lens": jnp.zeros(3, jnp.int32),
        "cu_q_lens": jnp.zeros(4, jnp.int32),
        "sm_scale": 1.0,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": jnp.zeros((4, 128))}, r"q must be \[T, N, H\]"),
        ({"pool": jnp.zeros((5, 2, 2, 16, 32))}, r"pool must be \[P, L, 2, K, S, H\]"),
        ({"pool": jnp.zeros((5, 2, 1, 2, 16, 32))}, r"pool must be \[P, L, 2, K"),
        ({"q": jnp.zeros((4, 4, 64))}, "larger heads than the pool"),
        ({"q": jnp.zeros((4, 5, 32))}, "multiple of KV heads"),
        ({"page_table": jnp.zeros(3, jnp.int32)}, r"page_table must be \[B, M\]"),
        ({"kv_lens": jnp.zeros(4, jnp.int32)}, r"kv_lens must be \[B\] = \(3,\)"),
        ({"cu_q_lens": jnp.zeros(3, jnp.int32)}, r"cu_q_lens must be \[B \+ 1\]"),
        ({"decode": True}, "one query token per row, got 4 tokens for 3 rows"),
        ({"layer": 2}, r"layer must be in 0\.\.1, got 2"),
        ({"layer": -1}, r"layer must be in 0\.\.1, got -1"),
        ({"window": 0}, "window must be at least 1"),
        ({"soft_cap": 0.0}, "soft_cap must be positive"),
        ({"soft_cap": float("nan")}, "soft_cap must be positive"),
        ({"sm_scale": float("nan")}, "sm_scale must be finite"),
        ({"backend": "cobol"}, "unknown backend 'cobol'; choose from mosaic_gpu, "),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    changes: Arguments, message: str
) -> None:
    call = functools.partial(ragged_paged_attention, **arguments(**changes))
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("q", jnp.zeros((4, 4, 32), jnp.int32)),
        ("pool", jnp.zeros((5, 2, 2, 2, 16, 32), jnp.int8)),
        ("page_table", jnp.zeros((3, 2))),
        ("kv_lens", jnp.zeros(3, jnp.int8)),
        ("cu_q_lens", jnp.zeros(4)),
    ],
)
def test_dtypes_that_do_not_fit_are_refused(name: str, value: jax.Array) -> None:
    with pytest.raises(TypeError, match=f"{name} must be"):
        ragged_paged_attention(**arguments(**{name: value}))

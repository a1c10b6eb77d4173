"""Tiles cover every token once; shares of a softmax join to the whole."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.pallas_kernels.attention.tiles import (
    count_tiles,
    cut_tiles,
    join_splits,
    scatter_singles,
    single_tiles,
)
from tests.pallas_kernels.cases import QUICK

CUT = jax.jit(
    cut_tiles, static_argnames=("tokens", "tile_tokens"), compiler_options=QUICK
)
SINGLE = jax.jit(single_tiles, compiler_options=QUICK)
JOIN = jax.jit(join_splits, compiler_options=QUICK)
SCATTER = jax.jit(scatter_singles, compiler_options=QUICK)


def ints(*values: int) -> jnp.ndarray:
    return jnp.array(values, jnp.int32)


def test_rows_are_cut_into_tiles_and_padding_sees_no_keys() -> None:
    # a has 5 tokens at positions 10 to 14, b one, c two, then two padding tokens
    tiles = CUT(ints(0, 5, 6, 8), ints(15, 9, 2), tokens=10, tile_tokens=2)
    assert tiles.row.tolist()[:5] == [0, 0, 0, 2, 2]
    assert tiles.start.tolist()[:5] == [0, 2, 4, 6, 8]
    assert tiles.tokens.tolist() == [2, 2, 1, 2, 2, 0, 0]
    assert tiles.end.tolist() == [12, 14, 15, 2, 0, 0, 0]


def test_single_rows_are_tiles_and_others_see_no_keys() -> None:
    tiles = SINGLE(ints(1, 5, 0, 1), ints(7, 9, 0, 1))
    assert tiles.row.tolist() == [0, 1, 2, 3]
    assert tiles.tokens.tolist() == [1, 1, 1, 1]
    assert tiles.end.tolist() == [7, 0, 0, 1]


@given(
    st.lists(st.integers(0, 40), min_size=6, max_size=6), st.sampled_from([1, 3, 16])
)
def test_every_token_but_those_of_single_rows_is_in_exactly_one_tile(
    lens: list[int], tile_tokens: int
) -> None:
    cu_q_lens = np.cumsum([0, *lens]).astype(np.int32)
    tokens = 250
    kv_lens = jnp.array([n + 3 for n in lens], jnp.int32)
    tiles = CUT(jnp.asarray(cu_q_lens), kv_lens, tokens=tokens, tile_tokens=tile_tokens)
    assert len(tiles.row) == count_tiles(
        tokens, rows=len(lens), tile_tokens=tile_tokens
    )
    seen = [
        start + i
        for start, count in zip(
            tiles.start.tolist(), tiles.tokens.tolist(), strict=True
        )
        for i in range(count)
    ]
    single = [int(cu_q_lens[b]) for b, n in enumerate(lens) if n == 1]
    assert seen == [t for t in range(tokens) if t not in single]


def test_shares_of_a_softmax_join_to_the_whole() -> None:
    # scores 0 and 2 (in base 2) for values 3 and 8: (3 + 4 * 8) / 5
    out = jnp.array([[3.0], [8.0], [0.0]]).reshape(3, 1, 1, 1)
    peak = jnp.array([0.0, 2.0, -1e30]).reshape(3, 1, 1)
    total = jnp.array([1.0, 1.0, 0.0]).reshape(3, 1, 1)
    assert JOIN(out, peak=peak, total=total).tolist() == [[[7.0]]]


def test_a_softmax_over_no_keys_is_zero() -> None:
    nothing = jnp.zeros((2, 1, 1))
    got = JOIN(jnp.zeros((2, 1, 1, 4)), peak=nothing - 1e30, total=nothing)
    assert got.tolist() == [[[0.0] * 4]]


def test_single_rows_are_put_in_their_places() -> None:
    out = jnp.zeros((4, 1, 1))
    single = jnp.array([7.0, 8.0, 9.0]).reshape(3, 1, 1)
    got = SCATTER(out, single, ints(0, 2, 3, 3))
    assert got.reshape(-1).tolist() == [0.0, 0.0, 8.0, 0.0]

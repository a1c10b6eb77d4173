"""Attends to the bit alike whatever else is in the batch, and however it was cut.

Each query token takes the blocks of its own keys in their order, from position 0 on. A
few tokens of a row share a tile, and tiles go through their blocks side by side: what
does not concern a token is masked, which leaves its sums as they are to the bit. So it
needs no list of whose blocks are merged when, as `xla.py` has, and does more work.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mell_jax.pallas_kernels.attention.blocks import (
    Keys,
    Softmax,
    add_softmax,
    attend_block,
    empty_softmax,
    fade,
    find_keys,
    first_seen,
    iota,
    normalise,
    pad_axis,
)
from mell_jax.pallas_kernels.pool import Pool, QuantizedPool

_BLOCK_PAGES = 8
_TILE_TOKENS = 4
_LANES = 8  # tiles side by side


@functools.partial(
    jax.jit, static_argnames=("sm_scale", "window", "soft_cap", "decode")
)
def ragged_paged_attention(
    q: jax.Array,  # [T, N, H]
    pool: Pool,  # [P, L, 2, K, S, H]
    *,
    layer: jax.Array,  # []
    page_table: jax.Array,  # [B, M]
    kv_lens: jax.Array,  # [B]
    cu_q_lens: jax.Array,  # [B + 1]
    sm_scale: float,
    window: int | None,
    soft_cap: float | None,
    decode: bool,
) -> jax.Array:
    """See `api.ragged_paged_attention`, which has checked the arguments."""
    del decode  # a token is computed alike in every step
    keys = find_keys(pool, layer=layer, window=window, soft_cap=soft_cap)
    if isinstance(pool, QuantizedPool) and q.dtype == jnp.float32:
        keys = keys._replace(precision=lax.Precision.HIGHEST)
    table = pad_axis(page_table, 1, -page_table.shape[1] % _BLOCK_PAGES)
    tokens, q_heads, head = q.shape
    kv_heads = keys.first_tile.shape[1]
    q_lens = cu_q_lens[1:] - cu_q_lens[:-1]  # [B]
    row_tiles = -(-q_lens // _TILE_TOKENS)
    ends = jnp.cumsum(row_tiles)
    scaled = q.astype(jnp.float32) * sm_scale

    def one_round(index: jax.Array, out: jax.Array) -> jax.Array:
        item = index * _LANES + iota(_LANES)  # [X]
        row = (item[:, None] >= ends[None]).sum(1, dtype=jnp.int32)
        is_live = row < page_table.shape[0]
        row = jnp.minimum(row, page_table.shape[0] - 1)
        first = (item - ends[row] + row_tiles[row]) * _TILE_TOKENS
        offsets = first[:, None] + iota(_TILE_TOKENS)[None]  # [X, Q] within the row
        is_in = is_live[:, None] & (offsets < q_lens[row][:, None])
        positions = (kv_lens - q_lens)[row][:, None] + offsets
        positions = jnp.where(is_in, positions, -1)
        at = jnp.where(is_in, cu_q_lens[row][:, None] + offsets, tokens)
        here = scaled[jnp.minimum(at, tokens - 1)]  # [X, Q, N, H]
        got = _attend_tiles(
            keys,
            _by_kv_head(here, kv_heads=kv_heads),
            table[row],
            jnp.tile(positions, (1, q_heads // kv_heads)),
        )
        got = got.reshape(_LANES, kv_heads, -1, _TILE_TOKENS, head)
        got = got.transpose(0, 3, 1, 2, 4).reshape(-1, q_heads, head)
        return out.at[at.reshape(-1)].set(got, mode="drop")

    rounds = (ends[-1] + _LANES - 1) // _LANES
    out: jax.Array = lax.fori_loop(0, rounds, one_round, jnp.zeros_like(scaled))
    return out.astype(q.dtype)


def _by_kv_head(q: jax.Array, *, kv_heads: int) -> jax.Array:
    """[X, Q, N, H] -> [X, K, G * Q, H]: what reads the same keys is together."""
    lanes, tokens, _, head = q.shape
    q = q.reshape(lanes, tokens, kv_heads, -1, head).transpose(0, 2, 3, 1, 4)
    return q.reshape(lanes, kv_heads, -1, head)


def _attend_tiles(
    keys: Keys,
    q: jax.Array,  # [X, K, R, H] scaled
    page_table: jax.Array,  # [X, M]
    positions: jax.Array,  # [X, R], -1: no query
) -> jax.Array:  # [X, K, R, H] float32, zeros where there is no query
    block_tokens = _BLOCK_PAGES * keys.page_tokens

    def one_block(block: jax.Array, state: Softmax) -> Softmax:
        pages = lax.dynamic_slice_in_dim(
            page_table, block * _BLOCK_PAGES, _BLOCK_PAGES, 1
        )
        part = attend_block(
            keys,
            q,
            pages,
            start=jnp.full(q.shape[:1], block * block_tokens, jnp.int32),
            positions=positions,
        )
        peak = jnp.maximum(state.peak, part.peak)
        return add_softmax(fade(state, peak), fade(part, peak))

    oldest = jnp.where(positions >= 0, positions, jnp.int32(2**30)).min()
    begin = first_seen(keys, oldest) // block_tokens
    end = positions.max() // block_tokens + 1
    return normalise(lax.fori_loop(begin, end, one_block, empty_softmax(q.shape)))

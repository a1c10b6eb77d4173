"""Ragged paged attention in plain XLA: correct everywhere, the default on a CPU.

It works on tiles of query tokens of one row, and walks over a row's pages in blocks
with an online softmax, as in FlashAttention (Dao et al., 2022). Trip counts are
dynamic, so the cost follows the real lengths and not the page table's width. Rows
with one query token run all at once; longer rows run tile after tile.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_BLOCK_PAGES = 8
_TILE_TOKENS = 64
_MASKED = -1e30


class _Softmax(NamedTuple):
    """Online softmax state of a block of queries; all float32."""

    out: jax.Array  # [X, K, R, H] weighted sum of the values so far
    peak: jax.Array  # [X, K, R] largest score so far
    total: jax.Array  # [X, K, R] sum of exp(score - peak) so far


class _Keys(NamedTuple):
    """What `_attend` needs to find and mask keys; the same for every query."""

    tiles: jax.Array  # [P * L * 2 * K, S, H] the pool, one row per tile
    first_tile: jax.Array  # [2, K] tile of page 0 in this layer: keys, values
    page_stride: int  # tiles per page
    window: int | None
    soft_cap: float | None
    precision: lax.Precision


@functools.partial(
    jax.jit, static_argnames=("sm_scale", "window", "soft_cap", "decode")
)
def ragged_paged_attention(
    q: jax.Array,  # [T, N, H]
    pool: jax.Array,  # [P, L, 2, K, S, H]
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
    pages, layers, _, kv_heads, page_tokens, head = pool.shape
    first_tile = layer * 2 * kv_heads + jnp.arange(2 * kv_heads, dtype=jnp.int32)
    keys = _Keys(
        tiles=pool.reshape(pages * layers * 2 * kv_heads, page_tokens, head),
        first_tile=first_tile.reshape(2, kv_heads),
        page_stride=layers * 2 * kv_heads,
        window=window,
        soft_cap=soft_cap,
        precision=_precision(pool.dtype),
    )
    page_table = jnp.pad(page_table, ((0, 0), (0, -page_table.shape[1] % _BLOCK_PAGES)))
    scaled = q.astype(jnp.float32) * sm_scale
    q_lens = cu_q_lens[1:] - cu_q_lens[:-1]  # [B]
    last = jnp.where(q_lens == 1, kv_lens, 0) - 1  # [B] position, -1: nothing to do
    if decode:
        return _attend_single_tokens(keys, scaled, page_table, last).astype(q.dtype)
    out = _attend_tiles(keys, scaled, page_table, kv_lens, cu_q_lens)
    # A row of one query token would waste a whole tile.
    first = jnp.minimum(cu_q_lens[:-1], q.shape[0] - 1)
    single = _attend_single_tokens(keys, scaled[first], page_table, last)
    target = jnp.where(q_lens == 1, first, q.shape[0])  # past the end: dropped
    return out.at[target].set(single, mode="drop").astype(q.dtype)


def _attend_single_tokens(
    keys: _Keys,
    q: jax.Array,  # [B, N, H] scaled
    page_table: jax.Array,  # [B, M]
    positions: jax.Array,  # [B]
) -> jax.Array:  # [B, N, H] float32
    rows, q_heads, head = q.shape
    kv_heads = keys.first_tile.shape[1]
    grouped = q.reshape(rows, kv_heads, q_heads // kv_heads, head)
    out = _attend(keys, grouped, page_table, positions[:, None])
    return out.reshape(rows, q_heads, head)


def _attend_tiles(
    keys: _Keys,
    q: jax.Array,  # [T, N, H] scaled
    page_table: jax.Array,  # [B, M]
    kv_lens: jax.Array,  # [B]
    cu_q_lens: jax.Array,  # [B + 1]
) -> jax.Array:  # [T, N, H] float32, zeros for rows of at most one query token
    tokens, q_heads, head = q.shape
    kv_heads = keys.first_tile.shape[1]
    group = q_heads // kv_heads
    q_lens = cu_q_lens[1:] - cu_q_lens[:-1]
    row_tiles = jnp.where(q_lens > 1, -(-q_lens // _TILE_TOKENS), 0)
    tile_ends = jnp.cumsum(row_tiles)  # [B]
    padded = jnp.pad(q, ((0, _TILE_TOKENS), (0, 0), (0, 0)))

    def one_tile(tile: jax.Array, out: jax.Array) -> jax.Array:
        row = jnp.searchsorted(tile_ends, tile, side="right").astype(jnp.int32)
        in_row = (tile - tile_ends[row] + row_tiles[row]) * _TILE_TOKENS
        offsets = in_row + jnp.arange(_TILE_TOKENS, dtype=jnp.int32)
        positions = kv_lens[row] - q_lens[row] + offsets
        positions = jnp.where(offsets < q_lens[row], positions, -1)
        start = cu_q_lens[row] + in_row
        here = lax.dynamic_slice_in_dim(padded, start, _TILE_TOKENS)
        here = here.reshape(_TILE_TOKENS, kv_heads, group, head).transpose(1, 2, 0, 3)
        got = _attend(
            keys,
            here.reshape(1, kv_heads, group * _TILE_TOKENS, head),
            lax.dynamic_slice_in_dim(page_table, row, 1),
            jnp.tile(positions, group)[None],
        )
        got = got.reshape(kv_heads, group, _TILE_TOKENS, head).transpose(2, 0, 1, 3)
        # Past the row's end this writes zeros, which the next tiles overwrite.
        got = got.reshape(_TILE_TOKENS, q_heads, head)
        return lax.dynamic_update_slice_in_dim(out, got, start, 0)

    out: jax.Array = lax.fori_loop(0, tile_ends[-1], one_tile, jnp.zeros_like(padded))
    return out[:tokens]


def _attend(
    keys: _Keys,
    q: jax.Array,  # [X, K, R, H] scaled
    page_table: jax.Array,  # [X, M], M a multiple of the block
    positions: jax.Array,  # [X, R] or [X, 1], -1: no query
) -> jax.Array:  # [X, K, R, H] float32, zeros where there is no query
    block_tokens = _BLOCK_PAGES * keys.tiles.shape[1]
    highest = positions.max(1)  # [X]
    lowest = jnp.zeros_like(highest)
    if keys.window is not None:
        oldest = jnp.where(positions >= 0, positions, jnp.int32(2**30)).min(1)
        lowest = jnp.maximum(oldest - (keys.window - 1), 0)

    def one_block(block: jax.Array, state: _Softmax) -> _Softmax:
        ids = lax.dynamic_slice_in_dim(
            page_table, block * _BLOCK_PAGES, _BLOCK_PAGES, 1
        )
        k, v = (_gather(keys, ids, which) for which in (0, 1))  # [X, K, C, H]
        at = block * block_tokens + jnp.arange(block_tokens, dtype=jnp.int32)
        at = at[None, :]  # [1, C]
        # Unused slots may hold NaN, and 0 * NaN is NaN.
        used = (at >= lowest[:, None]) & (at <= highest[:, None])  # [X, C]
        v = jnp.where(used[:, None, :, None], v, 0.0)
        scores = jnp.einsum("xkrh,xkch->xkrc", q, k, precision=keys.precision)
        if keys.soft_cap is not None:
            scores = keys.soft_cap * jnp.tanh(scores / keys.soft_cap)
        seen = at[None] <= positions[:, :, None]  # [X, R, C]
        if keys.window is not None:
            seen &= at[None] > positions[:, :, None] - keys.window
        return _add_block(state, scores, seen[:, None], v, keys.precision)

    state = _Softmax(
        out=jnp.zeros(q.shape, jnp.float32),
        peak=jnp.full(q.shape[:3], _MASKED, jnp.float32),
        total=jnp.zeros(q.shape[:3], jnp.float32),
    )
    begin = lowest.min() // block_tokens
    end = highest.max() // block_tokens + 1
    out, _, total = lax.fori_loop(begin, end, one_block, state)
    result: jax.Array = out / jnp.where(total == 0.0, 1.0, total)[..., None]
    return result


def _add_block(
    state: _Softmax,
    scores: jax.Array,  # [X, K, R, C]
    seen: jax.Array,  # [X, 1, R or 1, C]
    v: jax.Array,  # [X, K, C, H]
    precision: lax.Precision,
) -> _Softmax:
    scores = jnp.where(seen, scores, _MASKED)
    peak = jnp.maximum(state.peak, scores.max(-1))
    weights = jnp.where(seen, jnp.exp(scores - peak[..., None]), 0.0)
    fade = jnp.exp(state.peak - peak)
    added = jnp.einsum("xkrc,xkch->xkrh", weights, v, precision=precision)
    return _Softmax(
        out=state.out * fade[..., None] + added,
        peak=peak,
        total=state.total * fade + weights.sum(-1),
    )


def _gather(keys: _Keys, page_ids: jax.Array, which: int) -> jax.Array:
    """Keys (`which` 0) or values (1) of a block of pages `[X, C / S]`.

    Returns [X, K, C, H] float32.
    """
    first = keys.first_tile[which]
    tiles = first[None, :, None] + page_ids[:, None, :] * keys.page_stride
    got = keys.tiles.at[tiles].get(mode="promise_in_bounds")  # [X, K, C / S, S, H]
    got = got.reshape(*tiles.shape[:2], -1, keys.tiles.shape[2])
    return got.astype(jnp.float32)


def _precision(dtype: jax.typing.DTypeLike) -> lax.Precision:
    """A float32 pool asks for float32 products, which GPU and TPU do not default to."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT

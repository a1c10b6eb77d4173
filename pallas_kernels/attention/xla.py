"""Attends over pages in plain XLA: correct everywhere, the default on a CPU.

The unit of work is one block of a row's keys, with a softmax of its own; partial
softmaxes are merged as in FlashAttention (arXiv 2205.14135). Trip counts are dynamic,
so the cost follows the real lengths and not the page table's width:

    one query token   (row, block) pairs of all rows in one list, `lanes` at a time
    longer rows       tile after tile of 64 query tokens, block after block

A block stays within the L2 cache; what is left is reading keys and values once.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mell_jax.pallas_kernels.attention.blocks import (
    MASKED,
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

_ROW_BLOCK_PAGES = 4
_TILE_BLOCK_PAGES = 8
_TILE_TOKENS = 64
_FEWEST_LANES, _MOST_LANES = 8, 16


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
    keys = find_keys(pool, layer=layer, window=window, soft_cap=soft_cap)
    if isinstance(pool, QuantizedPool) and q.dtype == jnp.float32:
        keys = keys._replace(precision=lax.Precision.HIGHEST)
    page_table = pad_axis(page_table, 1, -page_table.shape[1] % _TILE_BLOCK_PAGES)
    scaled = q.astype(jnp.float32) * sm_scale
    q_lens = cu_q_lens[1:] - cu_q_lens[:-1]  # [B]
    last = jnp.where(q_lens == 1, kv_lens, 0) - 1  # [B] position, -1: nothing to do
    if decode:
        return _attend_rows(keys, scaled, page_table, last).astype(q.dtype)
    out = _attend_tiles(keys, scaled, page_table, kv_lens, cu_q_lens)
    # A row of one query token would waste a whole tile.
    first = jnp.minimum(cu_q_lens[:-1], q.shape[0] - 1)
    single = _attend_rows(keys, scaled[first], page_table, last)
    target = jnp.where(q_lens == 1, first, q.shape[0])  # past the end: dropped
    return out.at[target].set(single, mode="drop").astype(q.dtype)


def _attend_rows(
    keys: Keys,
    q: jax.Array,  # [B, N, H] scaled
    page_table: jax.Array,  # [B, M]
    positions: jax.Array,  # [B], -1: no query
) -> jax.Array:  # [B, N, H] float32, zeros where there is no query
    """One query token per row.

    The blocks of all rows form one list, and a row's blocks are neighbours in it:

        row    0  0  0  2  3  3        with 4 lanes: two rounds
        block  0  1  2  0  0  1        rank of rows 0 2 3: 0 1 2
    """
    rows, q_heads, head = q.shape
    kv_heads = keys.first_tile.shape[1]
    q = q.reshape(rows, kv_heads, q_heads // kv_heads, head)
    lanes = min(max(rows, _FEWEST_LANES), _MOST_LANES)
    block_tokens = _ROW_BLOCK_PAGES * keys.page_tokens
    first_block = first_seen(keys, positions) // block_tokens
    blocks = jnp.where(positions >= 0, positions // block_tokens + 1 - first_block, 0)
    ends = jnp.cumsum(blocks)
    rank = jnp.cumsum((blocks > 0).astype(jnp.int32)) - 1

    def one_round(index: jax.Array, state: Softmax) -> Softmax:
        item = index * lanes + iota(lanes)  # [X]
        row = (item[:, None] >= ends[None]).sum(1, dtype=jnp.int32)
        is_live = row < rows
        row = jnp.minimum(row, rows - 1)
        block = jnp.where(is_live, first_block[row] + item - ends[row] + blocks[row], 0)
        page = block[:, None] * _ROW_BLOCK_PAGES + iota(_ROW_BLOCK_PAGES)[None]
        part = attend_block(
            keys,
            q[row],
            page_table[row[:, None], page],
            start=block * block_tokens,
            positions=jnp.where(is_live, positions[row], -1)[:, None],
        )
        slot = rank[row] - rank[row[0]]
        is_in = (slot[None] == iota(lanes)[:, None]) & is_live[None]  # [slots, X]
        old = Softmax(
            *(lax.dynamic_slice_in_dim(a, rank[row[0]], lanes) for a in state)
        )
        new = _merge_into_slots(old, part, is_in, keys.precision)
        pairs = zip(state, new, strict=True)
        return Softmax(
            *(lax.dynamic_update_slice_in_dim(a, b, rank[row[0]], 0) for a, b in pairs)
        )

    rounds = (ends[-1] + lanes - 1) // lanes
    start = empty_softmax((rows + lanes, *q.shape[1:]))
    out = normalise(lax.fori_loop(0, rounds, one_round, start))[rank]
    out = jnp.where((blocks > 0)[:, None, None, None], out, 0.0)
    return out.reshape(rows, q_heads, head)


def _attend_tiles(
    keys: Keys,
    q: jax.Array,  # [T, N, H] scaled
    page_table: jax.Array,  # [B, M]
    kv_lens: jax.Array,  # [B]
    cu_q_lens: jax.Array,  # [B + 1]
) -> jax.Array:  # [T, N, H] float32
    """All query tokens of rows that have several; elsewhere the output is arbitrary.

    Arbitrary means finite, and zeros past the last row.
    """
    tokens, q_heads, head = q.shape
    kv_heads = keys.first_tile.shape[1]
    group = q_heads // kv_heads
    q_lens = cu_q_lens[1:] - cu_q_lens[:-1]
    row_tiles = jnp.where(q_lens > 1, -(-q_lens // _TILE_TOKENS), 0)
    tile_ends = jnp.cumsum(row_tiles)  # [B]
    padded = pad_axis(q, 0, _TILE_TOKENS)

    def one_tile(tile: jax.Array, out: jax.Array) -> jax.Array:
        row = (tile >= tile_ends).sum(dtype=jnp.int32)
        in_row = (tile - tile_ends[row] + row_tiles[row]) * _TILE_TOKENS
        offsets = in_row + iota(_TILE_TOKENS)
        positions = kv_lens[row] - q_lens[row] + offsets
        positions = jnp.where(offsets < q_lens[row], positions, -1)
        start = cu_q_lens[row] + in_row
        here = lax.dynamic_slice_in_dim(padded, start, _TILE_TOKENS)
        here = here.reshape(_TILE_TOKENS, kv_heads, group, head).transpose(1, 2, 0, 3)
        got = _attend_one_tile(
            keys,
            here.reshape(1, kv_heads, group * _TILE_TOKENS, head),
            lax.dynamic_slice_in_dim(page_table, row, 1),
            jnp.tile(positions, group)[None],
        )
        got = got.reshape(kv_heads, group, _TILE_TOKENS, head).transpose(2, 0, 1, 3)
        got = got.reshape(_TILE_TOKENS, q_heads, head)
        # Past the row's end this writes zeros, which the next tiles overwrite.
        return lax.dynamic_update_slice_in_dim(out, got, start, 0)

    out = lax.fori_loop(0, tile_ends[-1], one_tile, jnp.zeros_like(padded))
    return lax.slice_in_dim(out, 0, tokens)


def _attend_one_tile(
    keys: Keys,
    q: jax.Array,  # [1, K, R, H] scaled
    page_table: jax.Array,  # [1, M]
    positions: jax.Array,  # [1, R], -1: no query
) -> jax.Array:  # [1, K, R, H] float32, zeros where there is no query
    block_tokens = _TILE_BLOCK_PAGES * keys.page_tokens

    def one_block(block: jax.Array, state: Softmax) -> Softmax:
        page = block * _TILE_BLOCK_PAGES
        part = attend_block(
            keys,
            q,
            lax.dynamic_slice_in_dim(page_table, page, _TILE_BLOCK_PAGES, 1),
            start=block[None] * block_tokens,
            positions=positions,
        )
        peak = jnp.maximum(state.peak, part.peak)
        return add_softmax(fade(state, peak), fade(part, peak))

    oldest = jnp.where(positions >= 0, positions, jnp.int32(2**30)).min()
    begin = first_seen(keys, oldest) // block_tokens
    end = positions.max() // block_tokens + 1
    return normalise(lax.fori_loop(begin, end, one_block, empty_softmax(q.shape)))


def _merge_into_slots(
    slots: Softmax, parts: Softmax, is_in: jax.Array, precision: lax.Precision
) -> Softmax:
    """Adds each part to the slot that `is_in[slot, part]` names, if any.

    A part that is not finite spoils its own slot alone: 0 * NaN would spoil them all.
    """
    is_bad = jnp.logical_not(jnp.isfinite(parts.out).all(-1) & (parts.total < jnp.inf))
    parts = Softmax(
        out=jnp.where(is_bad[..., None], 0.0, parts.out),
        peak=jnp.where(is_bad, MASKED, parts.peak),
        total=jnp.where(is_bad, 0.0, parts.total),
    )
    spoilt = (is_in[:, :, None, None] & is_bad[None]).any(1)
    peaks = jnp.where(is_in[:, :, None, None], parts.peak[None], MASKED).max(1)
    peak = jnp.maximum(slots.peak, peaks)
    target = jnp.argmax(is_in, axis=0)  # [X], 0 for a part of no slot
    mine = jnp.maximum(peak[target], parts.peak)
    parts = fade(parts, mine)
    pick = is_in.astype(jnp.float32)
    added = Softmax(
        out=jnp.einsum("sx,xkrh->skrh", pick, parts.out, precision=precision),
        peak=peak,
        total=jnp.einsum("sx,xkr->skr", pick, parts.total, precision=precision),
    )
    merged = add_softmax(fade(slots, peak), added)
    return merged._replace(total=jnp.where(spoilt, jnp.nan, merged.total))

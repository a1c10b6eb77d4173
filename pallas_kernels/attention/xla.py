"""Attends over pages in plain XLA: correct everywhere, the default on a CPU.

The unit of work is one block of a row's keys, with a softmax of its own; partial
softmaxes are merged as in FlashAttention (arXiv 2205.14135). Trip counts are dynamic,
so the cost follows the real lengths and not the page table's width:

    one query token   (row, block) pairs of all rows in one list, `lanes` at a time
    longer rows       tile after tile of 64 query tokens, block after block

A block stays within the L2 cache; what is left is reading keys and values once.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mell_jax.pallas_kernels.pool import Pool, QuantizedPool

_ROW_BLOCK_PAGES = 4
_TILE_BLOCK_PAGES = 8
_TILE_TOKENS = 64
_FEWEST_LANES, _MOST_LANES = 8, 16
_FEW_QUERIES = 16
_MASKED = -1e30


class _Softmax(NamedTuple):
    """A softmax over some of the keys; all float32."""

    out: jax.Array  # [X, K, R, H] sum of exp(score - peak) * value
    peak: jax.Array  # [X, K, R] largest score
    total: jax.Array  # [X, K, R] sum of exp(score - peak)


class _Keys(NamedTuple):
    """What is the same for every query: where keys and values lie, and their masks."""

    tiles: jax.Array  # [P * L * 2 * K, S * H] the pool, one row per tile
    scales: jax.Array | None  # [P * L * 2 * K] of a quantised pool
    first_tile: jax.Array  # [2, K] tile of page 0 in this layer: keys, values
    page_tiles: int
    page_tokens: int
    window: int | None
    soft_cap: float | None
    precision: lax.Precision


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
    keys = _find_keys(pool, layer=layer, window=window, soft_cap=soft_cap)
    if isinstance(pool, QuantizedPool) and q.dtype == jnp.float32:
        keys = keys._replace(precision=lax.Precision.HIGHEST)
    page_table = _pad_axis(page_table, 1, -page_table.shape[1] % _TILE_BLOCK_PAGES)
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


def _find_keys(
    pool: Pool, *, layer: jax.Array, window: int | None, soft_cap: float | None
) -> _Keys:
    pages, layers, _, kv_heads, page_tokens, head = pool.shape
    page_tiles = layers * 2 * kv_heads
    first_tile = layer * (2 * kv_heads) + jnp.arange(2 * kv_heads, dtype=jnp.int32)
    # GPUs and TPUs would multiply float32 with fewer bits by default.
    is_exact = pool.dtype == jnp.float32
    scales = None
    if isinstance(pool, QuantizedPool):
        scales = pool.scales.reshape(pages * page_tiles)
        pool = pool.pages
    return _Keys(
        tiles=pool.reshape(pages * page_tiles, page_tokens * head),
        scales=scales,
        first_tile=first_tile.reshape(2, kv_heads),
        page_tiles=page_tiles,
        page_tokens=page_tokens,
        window=window,
        soft_cap=soft_cap,
        precision=lax.Precision.HIGHEST if is_exact else lax.Precision.DEFAULT,
    )


def _attend_rows(
    keys: _Keys,
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
    first_block = _first_seen(keys, positions) // block_tokens
    blocks = jnp.where(positions >= 0, positions // block_tokens + 1 - first_block, 0)
    ends = jnp.cumsum(blocks)
    rank = jnp.cumsum((blocks > 0).astype(jnp.int32)) - 1

    def one_round(index: jax.Array, state: _Softmax) -> _Softmax:
        item = index * lanes + _iota(lanes)  # [X]
        row = (item[:, None] >= ends[None]).sum(1, dtype=jnp.int32)
        is_live = row < rows
        row = jnp.minimum(row, rows - 1)
        block = jnp.where(is_live, first_block[row] + item - ends[row] + blocks[row], 0)
        page = block[:, None] * _ROW_BLOCK_PAGES + _iota(_ROW_BLOCK_PAGES)[None]
        part = _attend_block(
            keys,
            q[row],
            page_table[row[:, None], page],
            start=block * block_tokens,
            positions=jnp.where(is_live, positions[row], -1)[:, None],
        )
        slot = rank[row] - rank[row[0]]
        is_in = (slot[None] == _iota(lanes)[:, None]) & is_live[None]  # [slots, X]
        old = _Softmax(
            *(lax.dynamic_slice_in_dim(a, rank[row[0]], lanes) for a in state)
        )
        new = _merge_into_slots(old, part, is_in, keys.precision)
        pairs = zip(state, new, strict=True)
        return _Softmax(
            *(lax.dynamic_update_slice_in_dim(a, b, rank[row[0]], 0) for a, b in pairs)
        )

    rounds = (ends[-1] + lanes - 1) // lanes
    start = _empty((rows + lanes, *q.shape[1:]))
    out = _normalise(lax.fori_loop(0, rounds, one_round, start))[rank]
    out = jnp.where((blocks > 0)[:, None, None, None], out, 0.0)
    return out.reshape(rows, q_heads, head)


def _attend_tiles(
    keys: _Keys,
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
    padded = _pad_axis(q, 0, _TILE_TOKENS)

    def one_tile(tile: jax.Array, out: jax.Array) -> jax.Array:
        row = (tile >= tile_ends).sum(dtype=jnp.int32)
        in_row = (tile - tile_ends[row] + row_tiles[row]) * _TILE_TOKENS
        offsets = in_row + _iota(_TILE_TOKENS)
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
    keys: _Keys,
    q: jax.Array,  # [1, K, R, H] scaled
    page_table: jax.Array,  # [1, M]
    positions: jax.Array,  # [1, R], -1: no query
) -> jax.Array:  # [1, K, R, H] float32, zeros where there is no query
    block_tokens = _TILE_BLOCK_PAGES * keys.page_tokens

    def one_block(block: jax.Array, state: _Softmax) -> _Softmax:
        page = block * _TILE_BLOCK_PAGES
        part = _attend_block(
            keys,
            q,
            lax.dynamic_slice_in_dim(page_table, page, _TILE_BLOCK_PAGES, 1),
            start=block[None] * block_tokens,
            positions=positions,
        )
        peak = jnp.maximum(state.peak, part.peak)
        return _add(_fade(state, peak), _fade(part, peak))

    oldest = jnp.where(positions >= 0, positions, jnp.int32(2**30)).min()
    begin = _first_seen(keys, oldest) // block_tokens
    end = positions.max() // block_tokens + 1
    return _normalise(lax.fori_loop(begin, end, one_block, _empty(q.shape)))


def _attend_block(
    keys: _Keys,
    q: jax.Array,  # [X, K, R, H] scaled
    page_ids: jax.Array,  # [X, C / S]
    *,
    start: jax.Array,  # [X] position of the block's first key
    positions: jax.Array,  # [X, R] or [X, 1], -1: no query
) -> _Softmax:
    """The softmax of each query over one block of C keys."""
    at = start[:, None] + _iota(page_ids.shape[1] * keys.page_tokens)[None]  # [X, C]
    seen = at[:, None] <= positions[:, :, None]  # [X, R, C]
    if keys.window is not None:
        seen &= at[:, None] > positions[:, :, None] - keys.window
    k = _gather(keys, page_ids, 0)
    k = k.reshape(*k.shape[:2], -1, q.shape[3]).astype(jnp.float32)  # [X, K, C, H]
    if q.shape[2] < _FEW_QUERIES:  # then a CPU is faster with the keys on the left
        scores = jnp.einsum("xkch,xkrh->xkcr", k, q, precision=keys.precision)
        scores = scores.transpose(0, 1, 3, 2)
    else:
        scores = jnp.einsum("xkrh,xkch->xkrc", q, k, precision=keys.precision)
    if keys.soft_cap is not None:
        scores = keys.soft_cap * jnp.tanh(scores / keys.soft_cap)
    scores = jnp.where(seen[:, None], scores, _MASKED)
    peak = scores.max(-1)
    weights = jnp.where(seen[:, None], jnp.exp(scores - peak[..., None]), 0.0)
    v = _zero_unused(keys, _gather(keys, page_ids, 1), start, positions)
    v = v.reshape(*k.shape).astype(jnp.float32)
    out = jnp.einsum("xkrc,xkch->xkrh", weights, v, precision=keys.precision)
    return _Softmax(out=out, peak=peak, total=weights.sum(-1))


def _gather(keys: _Keys, page_ids: jax.Array, which: int) -> jax.Array:
    """Keys (`which` 0) or values (1) of pages `[X, C / S]`: [X, K, C / S, S * H].

    Whole tiles are copied, with their numbers computed beforehand; XLA on a CPU would
    else compute an address per number, at twice the time.
    """
    first = keys.first_tile[which][None, :, None]
    tiles = _materialise(first + page_ids[:, None, :] * keys.page_tiles)
    got = keys.tiles.at[tiles].get(
        mode="promise_in_bounds", wrap_negative_indices=False
    )
    if keys.scales is not None:
        got = got.astype(jnp.float32) * keys.scales[tiles][..., None]
    return _materialise(got) if which == 0 else got


def _zero_unused(
    keys: _Keys,
    v: jax.Array,  # [X, K, C / S, S * H]
    start: jax.Array,  # [X]
    positions: jax.Array,  # [X, R]
) -> jax.Array:
    """Zeros in slots no query may see: they may hold NaN, and 0 * NaN is NaN."""
    tile_start = start[:, None] + _iota(v.shape[2])[None] * keys.page_tokens  # [X, C/S]
    head = v.shape[3] // keys.page_tokens
    number = _iota(v.shape[3])[None, None]  # within a tile
    end = (positions.max(1)[:, None] + 1 - tile_start) * head
    used = number < _materialise(end)[..., None]
    if keys.window is not None:
        oldest = jnp.where(positions >= 0, positions, jnp.int32(2**30)).min(1)
        begin = (_first_seen(keys, oldest)[:, None] - tile_start) * head
        used &= number >= _materialise(begin)[..., None]
    zero = jnp.zeros((), v.dtype)
    return _materialise(jnp.where(used[:, None], v, zero))


def _first_seen(keys: _Keys, positions: jax.Array) -> jax.Array:
    """First position that a query at each of these positions attends to."""
    if keys.window is None:
        return jnp.zeros_like(positions)
    return jnp.maximum(positions - (keys.window - 1), 0)


def _empty(shape: tuple[int, ...]) -> _Softmax:
    """The softmax over no keys."""
    return _Softmax(
        out=jnp.zeros(shape, jnp.float32),
        peak=jnp.full(shape[:3], _MASKED, jnp.float32),
        total=jnp.zeros(shape[:3], jnp.float32),
    )


def _fade(state: _Softmax, peak: jax.Array) -> _Softmax:
    """The same softmax, its sums relative to a peak at least as high."""
    factor = jnp.exp(state.peak - peak)
    return _Softmax(
        out=state.out * factor[..., None], peak=peak, total=state.total * factor
    )


def _add(a: _Softmax, b: _Softmax) -> _Softmax:
    """Softmax over the keys of both, which have the same peak."""
    return _Softmax(out=a.out + b.out, peak=a.peak, total=a.total + b.total)


def _merge_into_slots(
    slots: _Softmax, parts: _Softmax, is_in: jax.Array, precision: lax.Precision
) -> _Softmax:
    """Adds each part to the slot that `is_in[slot, part]` names, if any.

    A part that is not finite spoils its own slot alone: 0 * NaN would spoil them all.
    """
    is_bad = jnp.logical_not(jnp.isfinite(parts.out).all(-1) & (parts.total < jnp.inf))
    parts = _Softmax(
        out=jnp.where(is_bad[..., None], 0.0, parts.out),
        peak=jnp.where(is_bad, _MASKED, parts.peak),
        total=jnp.where(is_bad, 0.0, parts.total),
    )
    spoilt = (is_in[:, :, None, None] & is_bad[None]).any(1)
    peaks = jnp.where(is_in[:, :, None, None], parts.peak[None], _MASKED).max(1)
    peak = jnp.maximum(slots.peak, peaks)
    target = jnp.argmax(is_in, axis=0)  # [X], 0 for a part of no slot
    mine = jnp.maximum(peak[target], parts.peak)
    parts = _fade(parts, mine)
    pick = is_in.astype(jnp.float32)
    added = _Softmax(
        out=jnp.einsum("sx,xkrh->skrh", pick, parts.out, precision=precision),
        peak=peak,
        total=jnp.einsum("sx,xkr->skr", pick, parts.total, precision=precision),
    )
    merged = _add(_fade(slots, peak), added)
    return merged._replace(total=jnp.where(spoilt, jnp.nan, merged.total))


def _normalise(state: _Softmax) -> jax.Array:
    """[X, K, R, H] weighted means of the values; zeros where no key was seen."""
    return state.out / jnp.where(state.total == 0.0, 1.0, state.total)[..., None]


def _materialise(x: jax.Array) -> jax.Array:
    """The same array, which XLA must not compute again inside its consumer."""
    barrier: Callable[[jax.Array], jax.Array] = lax.optimization_barrier
    return barrier(x)


def _iota(size: int) -> jax.Array:
    return jnp.arange(size, dtype=jnp.int32)


def _pad_axis(x: jax.Array, axis: int, amount: int) -> jax.Array:
    return jnp.pad(x, [(0, amount if a == axis else 0) for a in range(x.ndim)])

"""One block of keys with a softmax of its own, and how two softmaxes are merged.

As in FlashAttention (arXiv 2205.14135), in plain XLA, for all of its bodies.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mell_jax.pallas_kernels.pool import Pool, QuantizedPool

_FEW_QUERIES = 16
MASKED = -1e30


class Softmax(NamedTuple):
    """A softmax over some of the keys; all float32."""

    out: jax.Array  # [X, K, R, H] sum of exp(score - peak) * value
    peak: jax.Array  # [X, K, R] largest score
    total: jax.Array  # [X, K, R] sum of exp(score - peak)


class Keys(NamedTuple):
    """Keys are where they lie in the pool, with their values and what masks them."""

    tiles: jax.Array  # [P * L * 2 * K, S * H] the pool, one row per tile
    scales: jax.Array | None  # [P * L * 2 * K] of a quantised pool
    first_tile: jax.Array  # [2, K] tile of page 0 in this layer: keys, values
    page_tiles: int
    page_tokens: int
    window: int | None
    soft_cap: float | None
    precision: lax.Precision


def find_keys(
    pool: Pool, *, layer: jax.Array, window: int | None, soft_cap: float | None
) -> Keys:
    """Returns the keys of a layer, which are the same for every query."""
    pages, layers, _, kv_heads, page_tokens, head = pool.shape
    page_tiles = layers * 2 * kv_heads
    first_tile = layer * (2 * kv_heads) + jnp.arange(2 * kv_heads, dtype=jnp.int32)
    # GPUs and TPUs would multiply float32 with fewer bits by default.
    is_exact = pool.dtype == jnp.float32
    scales = None
    if isinstance(pool, QuantizedPool):
        scales = pool.scales.reshape(pages * page_tiles)
        pool = pool.pages
    return Keys(
        tiles=pool.reshape(pages * page_tiles, page_tokens * head),
        scales=scales,
        first_tile=first_tile.reshape(2, kv_heads),
        page_tiles=page_tiles,
        page_tokens=page_tokens,
        window=window,
        soft_cap=soft_cap,
        precision=lax.Precision.HIGHEST if is_exact else lax.Precision.DEFAULT,
    )


def attend_block(
    keys: Keys,
    q: jax.Array,  # [X, K, R, H] scaled
    page_ids: jax.Array,  # [X, C / S]
    *,
    start: jax.Array,  # [X] position of the block's first key
    positions: jax.Array,  # [X, R] or [X, 1], -1: no query
) -> Softmax:
    """The softmax of each query over one block of C keys."""
    at = start[:, None] + iota(page_ids.shape[1] * keys.page_tokens)[None]  # [X, C]
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
    scores = jnp.where(seen[:, None], scores, MASKED)
    peak = scores.max(-1)
    weights = jnp.where(seen[:, None], jnp.exp(scores - peak[..., None]), 0.0)
    v = _zero_unused(keys, _gather(keys, page_ids, 1), start, positions)
    v = v.reshape(*k.shape).astype(jnp.float32)
    out = jnp.einsum("xkrc,xkch->xkrh", weights, v, precision=keys.precision)
    return Softmax(out=out, peak=peak, total=weights.sum(-1))


def _gather(keys: Keys, page_ids: jax.Array, which: int) -> jax.Array:
    """Keys (`which` 0) or values (1) of pages `[X, C / S]`: [X, K, C / S, S * H].

    Whole tiles are copied, with their numbers computed beforehand; XLA on a CPU would
    else compute an address per number, at twice the time.
    """
    first = keys.first_tile[which][None, :, None]
    tiles = materialise(first + page_ids[:, None, :] * keys.page_tiles)
    got = keys.tiles.at[tiles].get(
        mode="promise_in_bounds", wrap_negative_indices=False
    )
    if keys.scales is not None:
        got = got.astype(jnp.float32) * keys.scales[tiles][..., None]
    return materialise(got) if which == 0 else got


def _zero_unused(
    keys: Keys,
    v: jax.Array,  # [X, K, C / S, S * H]
    start: jax.Array,  # [X]
    positions: jax.Array,  # [X, R]
) -> jax.Array:
    """Zeros in slots no query may see: they may hold NaN, and 0 * NaN is NaN."""
    tile_start = start[:, None] + iota(v.shape[2])[None] * keys.page_tokens  # [X, C/S]
    head = v.shape[3] // keys.page_tokens
    number = iota(v.shape[3])[None, None]  # within a tile
    end = (positions.max(1)[:, None] + 1 - tile_start) * head
    used = number < materialise(end)[..., None]
    if keys.window is not None:
        oldest = jnp.where(positions >= 0, positions, jnp.int32(2**30)).min(1)
        begin = (first_seen(keys, oldest)[:, None] - tile_start) * head
        used &= number >= materialise(begin)[..., None]
    zero = jnp.zeros((), v.dtype)
    return materialise(jnp.where(used[:, None], v, zero))


def first_seen(keys: Keys, positions: jax.Array) -> jax.Array:
    """First position that a query at each of these positions attends to."""
    if keys.window is None:
        return jnp.zeros_like(positions)
    return jnp.maximum(positions - (keys.window - 1), 0)


def empty_softmax(shape: tuple[int, ...]) -> Softmax:
    """The softmax over no keys."""
    return Softmax(
        out=jnp.zeros(shape, jnp.float32),
        peak=jnp.full(shape[:3], MASKED, jnp.float32),
        total=jnp.zeros(shape[:3], jnp.float32),
    )


def fade(state: Softmax, peak: jax.Array) -> Softmax:
    """The same softmax, its sums relative to a peak at least as high."""
    factor = jnp.exp(state.peak - peak)
    return Softmax(
        out=state.out * factor[..., None], peak=peak, total=state.total * factor
    )


def add_softmax(a: Softmax, b: Softmax) -> Softmax:
    """Softmax over the keys of both, which have the same peak."""
    return Softmax(out=a.out + b.out, peak=a.peak, total=a.total + b.total)


def normalise(state: Softmax) -> jax.Array:
    """[X, K, R, H] weighted means of the values; zeros where no key was seen."""
    return state.out / jnp.where(state.total == 0.0, 1.0, state.total)[..., None]


def materialise(x: jax.Array) -> jax.Array:
    """The same array, which XLA must not compute again inside its consumer."""
    barrier: Callable[[jax.Array], jax.Array] = lax.optimization_barrier
    return barrier(x)


def iota(size: int) -> jax.Array:
    return jnp.arange(size, dtype=jnp.int32)


def pad_axis(x: jax.Array, axis: int, amount: int) -> jax.Array:
    return jnp.pad(x, [(0, amount if a == axis else 0) for a in range(x.ndim)])

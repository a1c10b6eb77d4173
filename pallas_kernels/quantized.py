"""Writes tokens into a quantised pool: one scale per page, layer, k or v, and head.

A page fills over many steps, so its scale cannot be known when its first token comes.
It starts at what that token needs and only ever rises; when it does, the older tokens
of the page are rescaled in the same write. Scales are powers of two, and so are their
ratios: an int8 number is off by half a step at first, by half of every later step when
its page is rescaled, thus by less than one step of the page's last scale however often
it rose; a float8 number loses nothing but what falls below the smallest one.

    token 0 needs 1/4    scale 1/4    q0
    token 1 needs 1/8    scale 1/4    q0     q1
    token 2 needs 1      scale 1      q0/4   q1/4   q2

The first slot of a page is written first: then its old scale and content are dead.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mell_jax.pallas_kernels.pool import QuantizedPool, largest


class _Slots(NamedTuple):
    """Where tokens lie; padding tokens are in page 0."""

    page: jax.Array  # [T]
    offset: jax.Array  # [T] within the page
    page_row: jax.Array  # [T] row of the page and layer in [P * L, ...]


def write_quantized(
    pool: QuantizedPool,
    k: jax.Array,
    v: jax.Array,
    *,
    layer: int | jax.Array,
    page_slots: jax.Array,
    cu_q_lens: jax.Array | None,
) -> QuantizedPool:
    """See `pages.write_kv`, which has checked the arguments."""
    pages, layers, _, kv_heads, page_tokens, head = pool.shape
    page, offset = jnp.divmod(page_slots, page_tokens)
    slots = _Slots(page, offset, page * layers + layer)
    new = jnp.stack([k, v], axis=1).astype(jnp.float32)  # [T, 2, K, H]
    new = new.reshape(new.shape[0], 2 * kv_heads, head)
    old_scales = pool.scales.reshape(pages * layers, 2 * kv_heads)
    scales = _raise_scales(old_scales, new, slots, dtype=pool.dtype)
    token = _continued_tokens(slots, cu_q_lens)
    flat = pool.pages.reshape(-1, head)
    old_rows, old = _rescaled(
        flat, token, slots, scales=(old_scales, scales), page_tokens=page_tokens
    )
    new_rows = _rows(slots, slots.offset, 2 * kv_heads, page_tokens)
    quantized = _quantize(new, scales[slots.page_row], dtype=pool.dtype)
    rows = jnp.concatenate([old_rows.reshape(-1), new_rows.reshape(-1)])
    past_end = flat.shape[0] + jnp.arange(rows.size, dtype=jnp.int32)
    rows = jnp.where(rows < 0, past_end, rows)  # unique, and dropped
    values = jnp.concatenate([old.reshape(-1, head), quantized.reshape(-1, head)])
    # Or XLA on a GPU fuses reading the old rows into the write, and copies the pool.
    values = _materialise(values)
    flat = flat.at[rows].set(values, mode="drop", unique_indices=True)
    return QuantizedPool(
        pages=flat.reshape(pool.shape), scales=scales.reshape(pool.scales.shape)
    )


def _raise_scales(
    scales: jax.Array,  # [P * L, 2K]
    new: jax.Array,  # [T, 2K, H]
    slots: _Slots,
    *,
    dtype: jnp.dtype,
) -> jax.Array:  # [P * L, 2K]
    """Scales that hold the new tokens too; those of pages begun here start anew."""
    needed = _power_of_two_from(jnp.abs(new).max(-1) / largest(dtype))  # [T, 2K]
    past_end = scales.shape[0] + jnp.arange(slots.page.shape[0], dtype=jnp.int32)
    row = jnp.where(slots.page == 0, past_end, slots.page_row)
    begun = jnp.where(slots.offset == 0, row, past_end)
    scales = scales.at[begun].set(0.0, mode="drop", unique_indices=True)
    return scales.at[row].max(needed, mode="drop")


def _continued_tokens(slots: _Slots, cu_q_lens: jax.Array | None) -> jax.Array:
    """[X] first token of each page that older tokens lie in; T where there is none."""
    tokens = slots.page.shape[0]
    if cu_q_lens is None:  # any token may be the first of its page here
        token = jnp.arange(tokens, dtype=jnp.int32)
        before = jnp.concatenate([jnp.zeros((1,), jnp.int32), slots.page[:-1]])
        is_first = slots.page != before
    else:  # only the first token of a row: all its other pages begin here
        token = jnp.minimum(cu_q_lens[:-1], tokens - 1)
        is_first = cu_q_lens[1:] > cu_q_lens[:-1]
    is_first &= (slots.offset[token] > 0) & (slots.page[token] != 0)
    return jnp.where(is_first, token, tokens)


def _rescaled(
    flat: jax.Array,  # [P * L * 2K * S, H]
    token: jax.Array,  # [X]
    slots: _Slots,
    *,
    scales: tuple[jax.Array, jax.Array],  # [P * L, 2K] each: before, after
    page_tokens: int,
) -> tuple[jax.Array, jax.Array]:
    """Rows [X, 2K, S] of older tokens, negative for none, and numbers [X, 2K, S, H]."""
    is_live = token < slots.page.shape[0]
    at = jnp.minimum(token, slots.page.shape[0] - 1)
    page_row = slots.page_row[at]  # [X]
    heads = scales[0].shape[1]
    offset = jnp.arange(page_tokens, dtype=jnp.int32)
    mine = _Slots(slots.page[at], offset, page_row)
    rows = _rows(
        mine, jnp.broadcast_to(offset, (at.size, page_tokens)), heads, page_tokens
    )
    is_old = is_live[:, None] & (offset[None] < slots.offset[at][:, None])  # [X, S]
    numbers = flat[jnp.where(is_live[:, None, None], rows, 0)].astype(jnp.float32)
    old, new = (part[page_row] for part in scales)  # [X, 2K]
    ratio = old / jnp.where(new == 0.0, 1.0, new)
    numbers = numbers * ratio[:, :, None, None]
    return jnp.where(is_old[:, None], rows, -1), _cast(numbers, flat.dtype)


def _rows(slots: _Slots, offset: jax.Array, heads: int, page_tokens: int) -> jax.Array:
    """Rows of numbers in the flat pool: [T, 2K] or [X, 2K, S]; negative in page 0."""
    head = jnp.arange(heads, dtype=jnp.int32)
    tile = slots.page_row[:, None] * heads + head[None]  # [T, 2K]
    page = slots.page[:, None]
    if offset.ndim == 2:  # all slots of a page
        tile, page, offset = tile[..., None], page[..., None], offset[:, None]
    else:
        offset = offset[:, None]
    return jnp.where(page == 0, -1, tile * page_tokens + offset)


def _quantize(new: jax.Array, scales: jax.Array, *, dtype: jnp.dtype) -> jax.Array:
    """[T, 2K, H] numbers of `dtype` for tokens and their scales [T, 2K]."""
    return _cast(new / jnp.where(scales == 0.0, 1.0, scales)[..., None], dtype)


def _cast(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    if jnp.issubdtype(dtype, jnp.integer):
        x = jnp.round(x)
    return jnp.clip(x, -largest(dtype), largest(dtype)).astype(dtype)


def _materialise(x: jax.Array) -> jax.Array:
    """The same array, which XLA must not compute inside its consumer."""
    barrier: Callable[[jax.Array], jax.Array] = lax.optimization_barrier
    return barrier(x)


def _power_of_two_from(x: jax.Array) -> jax.Array:
    """The smallest power of two that is at least `x >= 0`, float32.

    0 stays 0. Infinity and NaN give infinity, a scale that makes NaN of its page: what
    is not finite stays visible in the row that it came from.
    """
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    up = (bits + jnp.uint32(0x7FFFFF)) & jnp.uint32(0x7F800000)
    power = lax.bitcast_convert_type(up, jnp.float32)
    return jnp.where(jnp.isfinite(x), power, jnp.inf)

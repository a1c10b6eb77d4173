"""Writes keys and values into a paged pool `[P, L, 2, K, S, H]`.

Seen flat, the pool is rows of `H` numbers, and a token's key or value of one head is
one row. Writes are scatters of such rows: with the pool donated they are in place on
CPU (float32), CUDA and TPU, where an indexed write into the six axes copies the pool.
A quantised pool is written by `quantized.py`.
"""

from typing import overload

import jax
import jax.numpy as jnp

from mell_jax.pallas_kernels.pool import Pool, QuantizedPool
from mell_jax.pallas_kernels.quantized import write_quantized

_MAX_ROWS = 2**31 - 2**20  # int32 row numbers, with room to point past the end


@overload
def write_kv(
    pool: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    layer: int | jax.Array,
    page_slots: jax.Array,
    cu_q_lens: jax.Array | None = ...,
) -> jax.Array: ...
@overload
def write_kv(
    pool: QuantizedPool,
    k: jax.Array,
    v: jax.Array,
    *,
    layer: int | jax.Array,
    page_slots: jax.Array,
    cu_q_lens: jax.Array | None = ...,
) -> QuantizedPool: ...
def write_kv(
    pool: Pool,
    k: jax.Array,
    v: jax.Array,
    *,
    layer: int | jax.Array,
    page_slots: jax.Array,
    cu_q_lens: jax.Array | None = None,
) -> Pool:
    """Returns the pool with each token's key and value of one layer in its slot.

    Page 0 is scratch: tokens whose slot lies in it are padding and are not written
    at all. That makes the written rows unique by construction, which the scatter
    promises to XLA, so any number of padding tokens may share a slot.

    Args:
      pool: `[P, L, 2, K, S, H]`, or a quantised pool, whose pages must be filled from
        their first slot on; donate it to the surrounding jit.
      k: `[T, K, H]` keys, cast to the pool's dtype, or quantised; where the pool
        has wider heads, the rest becomes zeros.
      v: `[T, K, H]` values, likewise.
      layer: which of the `L` layers to write; may be traced.
      page_slots: `[T]` int32, `page * S + offset`; distinct outside page 0. Tokens of
        one page stand together.
      cu_q_lens: `[B + 1]` int32 as attention takes it. For a quantised pool it saves
        work when `T > B`: only a row's first page can hold older tokens.

    Raises:
      ValueError: shapes or sizes do not fit.
      TypeError: `page_slots` is not int32.
    """
    _check(pool, k, v, layer, page_slots)
    missing = pool.shape[5] - k.shape[2]
    if missing:  # the pool has wider heads
        k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, missing))) for x in (k, v))
    if isinstance(pool, QuantizedPool):
        return write_quantized(
            pool, k, v, layer=layer, page_slots=page_slots, cu_q_lens=cu_q_lens
        )
    pages, layers, _, kv_heads, page_tokens, head = pool.shape
    page, offset = jnp.divmod(page_slots, page_tokens)  # [T]
    heads = jnp.arange(2 * kv_heads, dtype=jnp.int32).reshape(1, 2, kv_heads)
    tile = (page * layers + layer)[:, None, None] * (2 * kv_heads) + heads  # [T, 2, K]
    rows = tile * page_tokens + offset[:, None, None]
    total = pages * layers * 2 * kv_heads * page_tokens
    past_end = total + jnp.arange(rows.size, dtype=jnp.int32).reshape(rows.shape)
    rows = jnp.where(page[:, None, None] == 0, past_end, rows)  # unique, and dropped
    flat = pool.reshape(total, head)
    new = jnp.stack([k, v], axis=1).astype(pool.dtype)  # [T, 2, K, H]
    flat = flat.at[rows].set(new, mode="drop", unique_indices=True)
    return flat.reshape(pool.shape)


def _check(
    pool: Pool,
    k: jax.Array,
    v: jax.Array,
    layer: int | jax.Array,
    page_slots: jax.Array,
) -> None:
    if pool.ndim != 6 or pool.shape[2] != 2:
        raise ValueError(f"pool must be [P, L, 2, K, S, H], got shape {pool.shape}")
    if not (pool.size // pool.shape[5] <= _MAX_ROWS):
        raise ValueError(
            f"a pool of shape {pool.shape} has more than {_MAX_ROWS} rows, too many "
            "for int32 row numbers; use fewer pages"
        )
    if page_slots.ndim != 1:
        raise ValueError(f"page_slots must be [T], got shape {page_slots.shape}")
    expected = (page_slots.shape[0], pool.shape[3], pool.shape[5])
    fits = k.ndim == 3 and k.shape[:2] == expected[:2] and k.shape[2] <= expected[2]
    if not fits or k.shape != v.shape:
        raise ValueError(
            f"k and v must be [T, K, H] = {expected}, got {k.shape} and {v.shape}"
        )
    if page_slots.dtype != jnp.int32:
        raise TypeError(f"page_slots must be int32, got {page_slots.dtype}")
    if isinstance(layer, int) and not (0 <= layer < pool.shape[1]):
        raise ValueError(f"layer must be in 0..{pool.shape[1] - 1}, got {layer}")

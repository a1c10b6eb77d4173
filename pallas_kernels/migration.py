"""Moves whole pages out of one pool and into another, when requests change devices.

A page is one contiguous row of the pool, all layers, keys and values of 16 tokens:

    pages = gather_pages(pool, ids)                  # on the source, [n, L, 2, K, S, H]
    pages = jax.device_put(pages, destination)
    pool = scatter_pages(pool, ids, pages)           # on the destination, in place

Compile for few lengths: pad `page_ids` with 0, the scratch page, which is read like any
other and never written. Whoever moves pages calls these, one chunk after the other.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mell_jax.pallas_kernels.pool import Pool, QuantizedPool

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def gather_pages(pool: Pool, page_ids: jax.Array) -> Pool:
    """Returns the pages of these ids, one after the other.

    Args:
      pool: `[P, L, 2, K, S, H]`, or a quantised pool, whose scales come along.
      page_ids: `[n]` int32, each in `0..P - 1`; repeats are fine.

    Returns:
      `[n, L, 2, K, S, H]` (a quantised pool of n pages for a quantised pool).

    Raises:
      ValueError: `page_ids` is not a vector.
      TypeError: `page_ids` is not int32.
    """
    _check_ids(page_ids)
    got: Pool = jax.tree.map(lambda leaf: _gather_rows(leaf, page_ids), pool)
    return got


@functools.partial(jax.jit, donate_argnames="pool")
def scatter_pages(pool: Pool, page_ids: jax.Array, pages: Pool) -> Pool:
    """Returns the pool with `pages` in the places `page_ids`, written in place.

    Page 0 is scratch and keeps what it holds: padding ids may all be 0.

    Args:
      pool: `[P, L, 2, K, S, H]` or a quantised pool; donated.
      page_ids: `[n]` int32 in `0..P - 1`, distinct except for 0.
      pages: `[n, L, 2, K, S, H]` of the pool's dtype, as `gather_pages` returns them.

    Raises:
      ValueError: the shapes or kinds of pool and pages do not fit.
      TypeError: the dtypes do not fit.
    """
    _check_ids(page_ids)
    if isinstance(pool, QuantizedPool) != isinstance(pages, QuantizedPool):
        raise ValueError(
            f"pages must be of the pool's kind, {type(pool).__name__}, "
            f"got {type(pages).__name__}"
        )
    done: Pool = jax.tree.map(
        lambda leaf, rows: _scatter_rows(leaf, page_ids, rows), pool, pages
    )
    return done


@jax.jit
def checksum_pages(pages: Pool) -> jax.Array:
    """Returns one number per page over all its bits, to compare before and after a
    transfer.

    The sum, modulo 2**32, of each word times an odd number of its place: it sees any
    single changed word, words that changed places, and zeros in the place of data. It
    is no defence against anybody. The same on every platform and sharding.

    Args:
      pages: `[n, L, 2, K, S, H]` as `gather_pages` returns them, or a quantised pool.

    Returns:
      `[n]` uint32.
    """
    leaves: list[jax.Array] = jax.tree.leaves(pages)
    sums = [_checksum_rows(leaf) for leaf in leaves]
    return functools.reduce(lambda a, b: a * jnp.uint32(31) + b, sums)


def _gather_rows(leaf: jax.Array, ids: jax.Array) -> jax.Array:
    # Not by way of [P, ...] rows: on a TPU that is another layout, and copies the pool.
    return leaf.at[ids].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _scatter_rows(leaf: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    if rows.shape != (ids.shape[0], *leaf.shape[1:]):
        raise ValueError(
            f"pages must be {(ids.shape[0], *leaf.shape[1:])} for {ids.shape[0]} ids "
            f"and a pool of {leaf.shape}, got {rows.shape}"
        )
    if rows.dtype != leaf.dtype:
        raise TypeError(f"pages must be {leaf.dtype} like the pool, got {rows.dtype}")
    past_end = leaf.shape[0] + jnp.arange(ids.shape[0], dtype=jnp.int32)
    target = jnp.where(ids == 0, past_end, ids)  # unique; past the end is dropped
    return leaf.at[target].set(rows, mode="drop", unique_indices=True)


def _checksum_rows(leaf: jax.Array) -> jax.Array:
    words = lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize])
    words = words.astype(jnp.uint32)
    weight = jnp.zeros((1,) * words.ndim, jnp.uint32)
    for axis in range(1, words.ndim):  # the word's place, without a long iota
        place = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        weight = weight * jnp.uint32(words.shape[axis]) + place
    mixed = words * (weight * jnp.uint32(2654435760) + jnp.uint32(2654435761))
    return jnp.sum(mixed, axis=tuple(range(1, words.ndim)), dtype=jnp.uint32)


def _check_ids(page_ids: jax.Array) -> None:
    if page_ids.ndim != 1:
        raise ValueError(f"page_ids must be [n], got shape {page_ids.shape}")
    if page_ids.dtype != jnp.int32:
        raise TypeError(f"page_ids must be int32, got {page_ids.dtype}")

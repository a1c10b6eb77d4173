"""Top-k and top-p as exact thresholds, found without sorting.

The bits of a float, read as an integer, keep its order. So the k-th largest of V
values is found by choosing its 32 bits from the top, each by one count over the
row; the smallest nucleus likewise, by one masked sum per bit. Exact on every
platform, no scratch, and equal values are always kept or dropped together.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

LOWEST_KEY = -(2**31)
_ONE_BITS = 0x3F800000  # the bits of 1.0


def order_keys(values: Array) -> Array:
    """i32 keys in the order of the f32 `values`, of the same shape; -0.0 is 0.0."""
    positive_zero = jnp.where(values == 0.0, jnp.float32(0.0), values)
    bits = jax.lax.bitcast_convert_type(positive_zero, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def top_k_key(keys: Array, *, k: Array) -> Array:
    """The k-th largest of i32 `keys` [B, V], as i32[B]; the lowest i32 where k is 0.

    Keep `keys >= top_k_key[:, None]`: at least k of them, more when tied.
    """

    def has_k(candidate: Array) -> Array:  # [B] -> bool[B]
        kept = keys >= candidate[:, None]
        return jnp.sum(kept, axis=1, dtype=jnp.int32) >= k

    start = jnp.full(k.shape, LOWEST_KEY, jnp.int32)
    found = _largest_passing(has_k, start=start, num_bits=32)
    return jnp.where(k > 0, found, start)


def top_p_key(weights: Array, *, p: Array) -> Array:
    """Bits of the smallest weight in the nucleus, as i32[B]; 0 where p is 1 or more.

    `weights` f32[B, V] in [0, 1], the largest of a row exactly 1 (or all 0), need not
    sum to 1. Keep weights whose bits reach the key: the fewest, counting equal ones
    as one, whose sum reaches p of the total, and never none.
    """
    keys = jax.lax.bitcast_convert_type(weights, jnp.int32)
    target = p * jnp.sum(weights, axis=1)

    def has_mass(candidate: Array) -> Array:  # [B] -> bool[B]
        kept = jnp.where(keys >= candidate[:, None], weights, jnp.float32(0.0))
        return jnp.sum(kept, axis=1) >= target

    start = jnp.zeros(p.shape, jnp.int32)
    found = _largest_passing(has_mass, start=start, num_bits=30)
    return jnp.where(p < 1.0, jnp.minimum(found, _ONE_BITS), start)


def _largest_passing(
    passes: Callable[[Array], Array], *, start: Array, num_bits: int
) -> Array:
    """The largest key that passes, its low `num_bits` chosen from the top; i32[B].

    `passes` must be monotone: what a key passes, a smaller one passes too. The lowest
    i32 with its top bit flipped is 0, so `^` raises a key at every bit.
    """

    def choose_bit(step: Array, key: Array) -> Array:
        bit = jax.lax.shift_left(jnp.int32(1), jnp.int32(num_bits - 1) - step)
        raised = key ^ bit
        return jnp.where(passes(raised), raised, key)

    found: Array = jax.lax.fori_loop(
        jnp.int32(0), jnp.int32(num_bits), choose_bit, start
    )
    return found

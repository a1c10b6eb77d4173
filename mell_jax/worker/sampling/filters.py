"""Finds exact thresholds of top-k and top-p (arXiv 1904.09751) without sorting.

The bits of a float, read as an integer, keep its order. So the k-th largest of V
values is found by choosing its 32 bits from the top, each by one count over the
row; the smallest nucleus likewise, by one masked sum per bit. Needs no scratch,
takes a twentieth of a sort's time on a CPU, and keeps or drops equal values together.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

_LOWEST_KEY = -(2**31)
_MINUS_INF_KEY = -0x7F800001
_SMALLEST_NORMAL_KEY = 0x00800000


def top_k_threshold(values: Array, *, k: Array) -> Array:
    """Returns the k-th largest of each row, f32[B] from f32[B, V]; -inf where k i32[B]
    is 0.

    `values >= threshold[:, None]` keeps at least k of them, more when tied. A k
    beyond V keeps all. Rows must not hold NaN; V is below 2**24.
    """
    wanted = k.astype(jnp.float32)

    def has_k(key: Array) -> Array:  # [B] -> bool[B]
        kept = values >= _float_of(key)[:, None]
        # XLA:CPU adds floats at twice the speed of bools or integers
        count = jnp.sum(jnp.where(kept, jnp.float32(1.0), jnp.float32(0.0)), axis=1)
        return (count >= wanted) | (key <= _MINUS_INF_KEY)  # NaN below -inf's key

    start = jnp.full(k.shape, _LOWEST_KEY, jnp.int32)
    found = _float_of(_largest_passing(has_k, start=start, num_bits=32))
    return jnp.where(k > 0, found, -jnp.inf)


def top_p_threshold(weights: Array, *, p: Array) -> Array:
    """Returns the smallest weight in each row's nucleus, f32[B]; 0 where p f32[B] is >=
    1.

    `weights` f32[B, V] in [0, 1], the largest of a row exactly 1 (or all 0), need not
    sum to 1. `weights >= threshold[:, None]` keeps the fewest, equal ones together,
    whose sum reaches p of the total, and never none.
    """
    target = p * jnp.sum(weights, axis=1)

    def has_mass(key: Array) -> Array:  # [B] -> bool[B]
        kept = weights >= _float_of(key)[:, None]
        return jnp.sum(jnp.where(kept, weights, jnp.float32(0.0)), axis=1) >= target

    start = jnp.zeros(p.shape, jnp.int32)
    found = _float_of(_largest_passing(has_mass, start=start, num_bits=30))
    nucleus = jnp.minimum(found, jnp.float32(1.0))
    return jnp.where(p < 1.0, nucleus, jnp.float32(0.0))


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


def _float_of(key: Array) -> Array:
    """The f32 whose place in the order of floats is `key`: 0 -> 0.0, -1 -> -0.0.

    Subnormals become 0, as XLA:CPU compares them and XLA:GPU would not.
    """
    bits = jnp.where(key < 0, key ^ jnp.int32(0x7FFFFFFF), key)
    is_tiny = (key < _SMALLEST_NORMAL_KEY) & (~key < _SMALLEST_NORMAL_KEY)
    exact = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(is_tiny, jnp.float32(0.0), exact)

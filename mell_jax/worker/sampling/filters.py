"""Finds exact thresholds of top-k and top-p (arXiv 1904.09751) without sorting.

The bits of a float, read as an integer, keep its order. So the k-th largest of V
values is found by choosing its 32 bits from the top, a digit at a time, by a count over
the row for each value that the digit may have; the smallest nucleus likewise, by masked
sums. Needs no scratch, takes a twentieth of a sort's time on a CPU, and keeps or drops
equal values together. Digits of several bits are written out, round by round, for a
GPU's host waits for loops; single bits are a loop of fixed length, which a CPU does not
mind: written out it takes XLA four times as long to compile.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

_LOWEST_KEY = -(2**31)
_MINUS_INF_KEY = -0x7F800001
_SMALLEST_NORMAL_KEY = 0x00800000


def top_k_threshold(values: Array, *, k: Array, digit_bits: int = 1) -> Array:
    """Returns the k-th largest of each row, f32[B] from f32[B, V]; -inf where k i32[B]
    is 0.

    `values >= threshold[:, None]` keeps at least k of them, more when tied. A k
    beyond V keeps all. Rows must not hold NaN; V is below 2**24. `digit_bits` are
    chosen at once: more are fewer rounds with more to count in each.
    """
    wanted = k.astype(jnp.float32)[:, None]

    def have_k(keys: Array) -> Array:  # [B, n] -> bool[B, n]
        kept = values[:, None, :] >= _float_of(keys)[:, :, None]
        # XLA:CPU adds floats at twice the speed of bools or integers
        count = jnp.sum(jnp.where(kept, jnp.float32(1.0), jnp.float32(0.0)), axis=2)
        return (count >= wanted) | (keys <= _MINUS_INF_KEY)  # NaN below -inf's key

    start = jnp.full(k.shape, _LOWEST_KEY, jnp.int32)
    found = _largest_passing(have_k, start=start, num_bits=32, digit_bits=digit_bits)
    return jnp.where(k > 0, _float_of(found), -jnp.inf)


def top_p_threshold(weights: Array, *, p: Array, digit_bits: int = 1) -> Array:
    """Returns the smallest weight in each row's nucleus, f32[B]; 0 where p f32[B] is >=
    1.

    `weights` f32[B, V] in [0, 1], the largest of a row exactly 1 (or all 0), need not
    sum to 1. `weights >= threshold[:, None]` keeps the fewest, equal ones together,
    whose sum reaches p of the total, and never none. `digit_bits` is as for top-k.
    """
    target = (p * jnp.sum(weights, axis=1))[:, None]

    def have_mass(keys: Array) -> Array:  # [B, n] -> bool[B, n]
        kept = weights[:, None, :] >= _float_of(keys)[:, :, None]
        masked = jnp.where(kept, weights[:, None, :], jnp.float32(0.0))
        return jnp.sum(masked, axis=2) >= target

    start = jnp.zeros(p.shape, jnp.int32)
    found = _largest_passing(have_mass, start=start, num_bits=30, digit_bits=digit_bits)
    nucleus = jnp.minimum(_float_of(found), jnp.float32(1.0))
    return jnp.where(p < 1.0, nucleus, jnp.float32(0.0))


def _largest_passing(
    pass_which: Callable[[Array], Array],
    *,
    start: Array,
    num_bits: int,
    digit_bits: int,
) -> Array:
    """The largest key that passes, its low `num_bits` chosen from the top; i32[B].

    `pass_which` takes keys [B, n] and must be monotone: what a key passes, a smaller
    one passes too, so that as many values of a digit pass as the digit is. The lowest
    i32 with its top bit flipped is 0, so `^` raises a key at every bit.
    """

    def choose_digit(key: Array, shift: int | Array, width: int) -> Array:
        digits = jnp.arange(1, 2**width, dtype=jnp.int32) << shift
        passing = pass_which(key[:, None] ^ digits[None])  # [B, 2**width - 1]
        return key ^ (jnp.sum(passing.astype(jnp.int32), axis=1) << shift)

    if digit_bits == 1:
        found: Array = jax.lax.fori_loop(
            0, num_bits, lambda n, key: choose_digit(key, num_bits - 1 - n, 1), start
        )
        return found
    key, shift = start, num_bits
    while shift:
        width = shift % digit_bits or digit_bits
        shift -= width
        key = choose_digit(key, shift, width)
    return key


def _float_of(key: Array) -> Array:
    """The f32 whose place in the order of floats is `key`: 0 -> 0.0, -1 -> -0.0.

    Subnormals become 0, as XLA:CPU compares them and XLA:GPU would not.
    """
    bits = jnp.where(key < 0, key ^ jnp.int32(0x7FFFFFFF), key)
    is_tiny = (key < _SMALLEST_NORMAL_KEY) & (~key < _SMALLEST_NORMAL_KEY)
    exact = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(is_tiny, jnp.float32(0.0), exact)

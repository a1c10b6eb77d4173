"""Chooses a token per row: the likeliest, or one drawn from what filters leave.

    logits -> greedy: argmax
           -> random: temperature -> min_p -> top_k -> top_p -> draw

The order is vLLM's; min_p is that of arXiv 2407.01082, top_p of 1904.09751. Rows are
independent, so a row's token depends on its logits, its parameters, its seed and its
position only.
"""

import jax.numpy as jnp
from jax import Array

from mell_jax.worker.sampling.draw import draw, row_keys
from mell_jax.worker.sampling.filters import top_k_threshold, top_p_threshold
from mell_jax.worker.sampling.rows import GREEDY_BELOW, SamplingRows


def are_finite(logits: Array) -> Array:
    """Returns bool[B]: every logit of a row of f32[B, V] is finite.

    It counts, since XLA:CPU's vectorized `max` may lose a NaN.
    """
    is_bad = ~(jnp.abs(logits) < jnp.inf)
    count: Array = jnp.sum(jnp.where(is_bad, jnp.float32(1.0), jnp.float32(0.0)), 1)
    return count == 0.0


def first_argmax(values: Array) -> Array:
    """Returns i32[B]: the lowest id of the largest value; some valid id where that is
    NaN.

    Two plain reductions, which XLA:CPU vectorizes; `jnp.argmax` takes four times as
    long there.
    """
    vocab = values.shape[1]
    ids = jnp.arange(vocab, dtype=jnp.int32)[None]
    is_best = values == jnp.max(values, axis=1, keepdims=True)
    best: Array = jnp.min(jnp.where(is_best, ids, jnp.int32(vocab - 1)), axis=1)
    return best


def filtered(logits: Array, *, rows: SamplingRows, digit_bits: int) -> Array:
    """Returns f32[B, V]: -inf for what top-k and top-p drop of random rows, the rest to
    the bit.

    Tokens tied with the last one that is kept are kept. `digit_bits` are those of
    `filters`.
    """
    weights = kept_weights(logits, rows=rows)
    top_k = top_k_threshold(logits, k=rows.top_k, digit_bits=digit_bits)
    is_kept = logits >= top_k[:, None]
    weights = jnp.where(is_kept, weights, jnp.float32(0.0))
    top_p = top_p_threshold(weights, p=rows.top_p, digit_bits=digit_bits)
    is_kept &= weights >= top_p[:, None]
    return jnp.where(is_kept | _is_greedy(rows)[:, None], logits, -jnp.inf)


def drawn(logits: Array, *, rows: SamplingRows) -> Array:
    """Returns i32[B]: the drawn token of each random row, the best of a greedy one."""
    weights = kept_weights(logits, rows=rows)
    keys = row_keys(seed_hi=rows.seed_hi, seed_lo=rows.seed_lo, position=rows.position)
    token = draw(weights, keys=keys)
    return jnp.where(_is_greedy(rows), first_argmax(logits), token)


def kept_weights(logits: Array, *, rows: SamplingRows) -> Array:
    """Returns f32[B, V]: softmax(logits / temperature) over its maximum, 0 where min-p
    drops it.
    """
    weights = jnp.exp(_scaled(logits, temperature=rows.temperature))
    return jnp.where(weights >= rows.min_p[:, None], weights, jnp.float32(0.0))


def processed(logits: Array, *, rows: SamplingRows) -> Array:
    """Returns f32[B, V], whose softmax is what a random row is drawn from.

    A greedy row's are its logits: of what it takes there is no distribution.
    """
    is_greedy = _is_greedy(rows)
    temperature = jnp.where(is_greedy, jnp.float32(1.0), rows.temperature)
    scaled = _scaled(logits, temperature=temperature)
    is_kept = (jnp.exp(scaled) >= rows.min_p[:, None]) | is_greedy[:, None]
    return jnp.where(is_kept, scaled, -jnp.inf)


def _scaled(logits: Array, *, temperature: Array) -> Array:
    """Returns f32[B, V]: what logits are above their maximum, over the temperature."""
    best = jnp.max(logits, axis=1, keepdims=True)
    best = jnp.where(jnp.isfinite(best), best, jnp.float32(0.0))  # all barred
    divisor = jnp.maximum(temperature, jnp.float32(GREEDY_BELOW))
    return (logits - best) / divisor[:, None]


def _is_greedy(rows: SamplingRows) -> Array:
    is_greedy: Array = rows.temperature < GREEDY_BELOW
    return is_greedy

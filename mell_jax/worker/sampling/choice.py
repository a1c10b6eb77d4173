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


def drawn(logits: Array, *, rows: SamplingRows, digit_bits: int | None) -> Array:
    """Returns i32[B]: the drawn token of each random row, the best of a greedy one.

    `digit_bits` are those of `filters`; None leaves top-k and top-p out.
    """
    weights = kept_weights(logits, rows=rows, digit_bits=digit_bits)
    keys = row_keys(seed_hi=rows.seed_hi, seed_lo=rows.seed_lo, position=rows.position)
    is_greedy = rows.temperature < GREEDY_BELOW
    return jnp.where(is_greedy, first_argmax(logits), draw(weights, keys=keys))


def kept_weights(logits: Array, *, rows: SamplingRows, digit_bits: int | None) -> Array:
    """Returns f32[B, V]: softmax(logits / temperature) over its maximum, 0 where
    filtered.

    Tokens tied with the last one that top-k or top-p keeps are kept.
    """
    scaled = _scaled(logits, temperature=rows.temperature)
    weights = jnp.exp(scaled)
    is_kept = _is_kept(logits, weights, rows=rows, digit_bits=digit_bits)
    return jnp.where(is_kept, weights, jnp.float32(0.0))


def processed_logits(
    logits: Array, *, rows: SamplingRows, digit_bits: int | None
) -> Array:
    """Returns f32[B, V], whose softmax is what a random row is drawn from.

    -inf is what is filtered. A greedy row's are its logits, as if its temperature was
    1 and nothing was filtered: of what it takes there is no distribution.

    Args:
      logits: f32[B, V], edited and masked.
      rows: of the step.
      digit_bits: those of `filters`; None leaves top-k and top-p out.
    """
    is_greedy = rows.temperature < GREEDY_BELOW
    temperature = jnp.where(is_greedy, jnp.float32(1.0), rows.temperature)
    scaled = _scaled(logits, temperature=temperature)
    is_kept = _is_kept(logits, jnp.exp(scaled), rows=rows, digit_bits=digit_bits)
    return jnp.where(is_kept | is_greedy[:, None], scaled, -jnp.inf)


def _scaled(logits: Array, *, temperature: Array) -> Array:
    """Returns f32[B, V]: what logits are below their maximum, over the temperature."""
    best = jnp.max(logits, axis=1, keepdims=True)
    best = jnp.where(jnp.isfinite(best), best, jnp.float32(0.0))  # all barred
    divisor = jnp.maximum(temperature, jnp.float32(GREEDY_BELOW))
    return (logits - best) / divisor[:, None]


def _is_kept(
    logits: Array, weights: Array, *, rows: SamplingRows, digit_bits: int | None
) -> Array:
    """Returns bool[B, V]: what min-p, top-k and top-p leave, in this order."""
    is_kept = weights >= rows.min_p[:, None]
    if digit_bits is None:
        return is_kept
    top_k = top_k_threshold(logits, k=rows.top_k, digit_bits=digit_bits)
    is_kept &= logits >= top_k[:, None]
    left = jnp.where(is_kept, weights, jnp.float32(0.0))
    top_p = top_p_threshold(left, p=rows.top_p, digit_bits=digit_bits)
    return is_kept & (left >= top_p[:, None])

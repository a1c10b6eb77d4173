"""Makes tokens of logits: one function serves every mix of parameters.

    logits -> penalties -> bias, allowed tokens, stop tokens -> greedy: argmax
           -> temperature -> min_p -> top_k -> top_p         -> random: draw

The order is vLLM's. The repetition penalty is that of arXiv 1909.05858, min_p of
2407.01082, top_p of 1904.09751. One executable per bucket: what no row of a step wants
is skipped by `lax.cond` on flags that the host computes, never by recompiling.
Rows are independent, so a row's token depends on its logits, its parameters, its
history, its seed and its position only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mell_jax.worker.sampling.draw import draw, row_keys
from mell_jax.worker.sampling.filters import top_k_threshold, top_p_threshold
from mell_jax.worker.sampling.rows import (
    GREEDY_BELOW,
    SampleFlags,
    SamplingRows,
    has_penalty,
)
from mell_jax.worker.sampling.state import RowState, record_tokens

TOP_LOGPROBS = 20


class Sampled(NamedTuple):
    """A step sampled this; logprobs are those of the raw logits.

    The last three are zeros unless some row of the step wants logprobs. With fewer
    than 20 tokens in the vocabulary, `top_logprobs` is filled up with -inf.
    """

    token: Array  # i32[B]
    finite: Array  # bool[B]: every raw logit of the row is finite
    logprob: Array  # f32[B], of `token`
    top_ids: Array  # i32[B, 20], best first
    top_logprobs: Array  # f32[B, 20]


def sample(
    logits: Array,
    *,
    state: RowState,
    slots: Array,
    rows: SamplingRows,
    flags: SampleFlags,
) -> tuple[Sampled, RowState]:
    """Samples one token per row and records it in `state`, which is donated.

    `logits` f32[B, V]; `slots` i32[B], R for rows that sample nothing (padding, or a
    prompt not yet read to its end), whose answers mean nothing. A row with a NaN or an
    infinite logit answers token 0 and `finite` False and disturbs no other row; a row
    whose every token is barred answers token 0 and `finite` True.
    """
    finite = _all_finite(logits)

    def plain(_: None) -> Array:
        return first_argmax(logits)

    def special(_: None) -> Array:
        edited = _edit_logits(logits, state=state, slots=slots, rows=rows, flags=flags)
        return _choose(edited, rows=rows, flags=flags)

    is_special = flags.any_random | flags.any_penalty | flags.any_bias
    chosen: Array = jax.lax.cond(is_special, special, plain, None)
    token = jnp.where(finite, chosen, jnp.int32(0))
    logprob, top_ids, top_logprobs = jax.lax.cond(
        flags.any_logprobs,
        lambda: token_logprobs(logits, targets=token),
        lambda: _no_logprobs(token.shape[0]),
    )
    sampled = Sampled(
        token=token,
        finite=finite,
        logprob=logprob,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
    )
    recorded = record_tokens(
        state, slots=slots, tokens=token, counted=has_penalty(rows)
    )
    return sampled, recorded


def token_logprobs(logits: Array, *, targets: Array) -> tuple[Array, Array, Array]:
    """Returns log_softmax of `logits` f32[T, V] at `targets` i32[T], and its 20
    largest.

    Returns logprob f32[T], ids i32[T, 20], logprobs f32[T, 20]; equal ones by id.
    """
    vocab = logits.shape[1]
    log_total = jax.nn.logsumexp(logits, axis=1)  # [T]
    picked = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    top, ids = jax.lax.top_k(logits, min(TOP_LOGPROBS, vocab))
    missing = ((0, 0), (0, TOP_LOGPROBS - ids.shape[1]))
    return (
        picked - log_total,
        jnp.pad(ids.astype(jnp.int32), missing),
        jnp.pad(top - log_total[:, None], missing, constant_values=-jnp.inf),
    )


def _no_logprobs(count: int) -> tuple[Array, Array, Array]:
    return (
        jnp.zeros((count,), jnp.float32),
        jnp.zeros((count, TOP_LOGPROBS), jnp.int32),
        jnp.zeros((count, TOP_LOGPROBS), jnp.float32),
    )


def _all_finite(logits: Array) -> Array:
    """bool[B]. Counts, since XLA:CPU's vectorized `max` may lose a NaN."""
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
    ids = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
    is_best = values == jnp.max(values, axis=1, keepdims=True)
    best: Array = jnp.min(jnp.where(is_best, ids, jnp.int32(vocab - 1)), axis=1)
    return best


def _edit_logits(
    logits: Array,
    *,
    state: RowState,
    slots: Array,
    rows: SamplingRows,
    flags: SampleFlags,
) -> Array:
    def edit(values: Array) -> Array:
        penalized: Array = jax.lax.cond(
            flags.any_penalty,
            lambda x: _penalize(x, state=state, slots=slots, rows=rows),
            lambda x: x,
            values,
        )
        biased: Array = jax.lax.cond(
            flags.any_bias,
            lambda x: _bias(x, state=state, slots=slots, rows=rows),
            lambda x: x,
            penalized,
        )
        return biased

    edited: Array = jax.lax.cond(
        flags.any_penalty | flags.any_bias, edit, lambda x: x, logits
    )
    return edited


def _penalize(
    logits: Array, *, state: RowState, slots: Array, rows: SamplingRows
) -> Array:
    """Repetition over prompt and output, then frequency and presence over output."""
    counts = state.output_counts[slots]  # [B, V]
    is_output = counts > 0
    repetition = rows.repetition[:, None]
    repeated = jnp.where(logits > 0.0, logits / repetition, logits * repetition)
    values: Array = jnp.where(is_output | state.prompt_seen[slots], repeated, logits)
    values = values - rows.frequency[:, None] * counts.astype(jnp.float32)
    present = jnp.where(is_output, rows.presence[:, None], jnp.float32(0.0))
    return values - present


def _bias(logits: Array, *, state: RowState, slots: Array, rows: SamplingRows) -> Array:
    """Adds the biases, bars what is not allowed, bars stop tokens; barred is -inf."""
    count, vocab = logits.shape
    row = jnp.arange(count, dtype=jnp.int32)[:, None]  # [B, 1]
    ids = jnp.where(rows.has_bias[:, None], state.bias_ids[slots], jnp.int32(vocab))
    biased = logits.at[row, ids].add(state.bias_values[slots], mode="drop")
    listed = jnp.zeros(logits.shape, jnp.bool_).at[row, ids].set(True, mode="drop")
    only_listed = (rows.has_bias & state.allow_only[slots])[:, None]
    allowed = jnp.where(listed | ~only_listed, biased, -jnp.inf)
    stops = jnp.where(
        rows.suppress_stop[:, None], state.stop_ids[slots], jnp.int32(vocab)
    )
    return allowed.at[row, stops].set(-jnp.inf, mode="drop")


def _choose(logits: Array, *, rows: SamplingRows, flags: SampleFlags) -> Array:
    """The greedy or the drawn token of each row, i32[B]."""
    best = first_argmax(logits)

    def drawn() -> Array:
        weights = kept_weights(logits, rows=rows, flags=flags)
        keys = row_keys(
            seed_hi=rows.seed_hi, seed_lo=rows.seed_lo, position=rows.position
        )
        is_greedy = rows.temperature < GREEDY_BELOW
        return jnp.where(is_greedy, best, draw(weights, keys=keys))

    chosen: Array = jax.lax.cond(flags.any_random, drawn, lambda: best)
    return chosen


def kept_weights(logits: Array, *, rows: SamplingRows, flags: SampleFlags) -> Array:
    """Returns f32[B, V]: softmax(logits / temperature) over its maximum, 0 where
    filtered.

    Tokens tied with the last one that top-k or top-p keeps are kept.
    """
    lowest = jnp.full(rows.top_k.shape, -jnp.inf, jnp.float32)
    top_k: Array = jax.lax.cond(
        flags.any_top_k,
        lambda: top_k_threshold(logits, k=rows.top_k),
        lambda: lowest,
    )
    best = jnp.max(logits, axis=1, keepdims=True)
    best = jnp.where(jnp.isfinite(best), best, jnp.float32(0.0))  # all barred
    temperature = jnp.maximum(rows.temperature, jnp.float32(GREEDY_BELOW))
    weights = jnp.exp((logits - best) / temperature[:, None])
    is_kept = (logits >= top_k[:, None]) & (weights >= rows.min_p[:, None])
    weights = jnp.where(is_kept, weights, jnp.float32(0.0))
    top_p: Array = jax.lax.cond(
        flags.any_top_p,
        lambda: top_p_threshold(weights, p=rows.top_p),
        lambda: jnp.zeros(rows.top_p.shape, jnp.float32),
    )
    return jnp.where(weights >= top_p[:, None], weights, jnp.float32(0.0))

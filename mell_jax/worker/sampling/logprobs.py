"""Log probabilities of a token and of the 20 likeliest, from logits of some kind."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

TOP_LOGPROBS = 20


class TokenLogprobs(NamedTuple):
    """The log probabilities are of one token a row, and of the row's 20 likeliest.

    With fewer than 20 tokens in the vocabulary, `top` is filled up with -inf.
    """

    chosen: Array  # f32[B]
    top_ids: Array  # i32[B, 20], best first, equal ones by id
    top: Array  # f32[B, 20]


def token_logprobs(logits: Array, targets: Array) -> TokenLogprobs:
    """Returns log_softmax of `logits` f32[B, V] at `targets` i32[B], and its largest.

    A negative target stands for token 0.
    """
    vocab = logits.shape[1]
    log_total = jax.nn.logsumexp(logits, axis=1)  # [B]
    at = jnp.maximum(targets, 0)[:, None]
    picked = jnp.take_along_axis(logits, at, axis=1)[:, 0]
    top, ids = jax.lax.top_k(logits, min(TOP_LOGPROBS, vocab))
    missing = ((0, 0), (0, TOP_LOGPROBS - ids.shape[1]))
    return TokenLogprobs(
        chosen=picked - log_total,
        top_ids=jnp.pad(ids.astype(jnp.int32), missing),
        top=jnp.pad(top - log_total[:, None], missing, constant_values=-jnp.inf),
    )

"""Finds out whether a decoder says what the actor says, before it is served for it.

A model by others is described in our words by a table that may be wrong or grow old: a
base of rotary positions, a cap, the order of two halves. Served, it would only make
every importance ratio wrong. So both compute the same tokens at the start.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from mell_jax.models.attention import causal_attention
from mell_jax.models.decoder import Decoder

LENGTH = 64  # tokens: rotary positions of another base are far apart by then
LARGEST_ERROR = {"exact": 1e-3, "rounded": 0.1}
"""Of the logits less their mean, relative: where all is float32, and elsewhere."""

Logits = npt.NDArray[np.float32]  # [T, V]
Actor = Callable[..., tuple[jax.Array, Any]]
"""Called with tokens [B, T], positions [B, T], cache None and a mask [B, T, T]."""


def find_like(actor: Any, decoders: Sequence[Decoder]) -> Decoder:
    """Returns the decoder that computes what the actor does.

    Args:
      actor: a module as Tunix calls it.
      decoders: with its parameters, where these lie.

    Raises:
      ValueError: none of them does.
    """
    vocab = decoders[0].config.vocab_size
    tokens = np.arange(1, LENGTH + 1, dtype=np.int32) * 7919 % vocab
    expected = _ask_actor(actor, tokens)
    found = [_ask_decoder(decoder, tokens) for decoder in decoders]
    errors = [relative_error(logits, expected=expected) for logits in found]
    best = int(np.argmin(errors))
    most = LARGEST_ERROR[_kind(decoders[best])]
    if not (errors[best] <= most):
        raise ValueError(
            f"{type(actor).__name__} computes other logits than the decoder that would "
            f"be served for it: they differ by {errors[best]:.3g} of their size, at "
            f"most {most:g} is rounding. It is not what it was taken for; say what it "
            "is, functools.partial(MellRollout, model=...)"
        )
    return decoders[best]


def relative_error(found: Logits, *, expected: Logits) -> float:
    """Returns how far logits [T, V] are from others; a constant in a row is nothing."""
    found, expected = (x - x.mean(-1, keepdims=True) for x in (found, expected))
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected)) / max(size, 1e-6)


def _ask_actor(actor: Any, tokens: npt.NDArray[np.int32]) -> Logits:
    graphdef, state = nnx.split(actor)
    # As many rows as devices: batches may be cut over all of them.
    rows = max(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state))

    @jax.jit
    def ask(state: Any, tokens: jax.Array) -> jax.Array:
        length = len(tokens)
        mask = jnp.tril(jnp.ones((length, length), bool))
        batch = jnp.tile(tokens, (rows, 1))
        positions = jnp.tile(jnp.arange(length, dtype=jnp.int32), (rows, 1))
        model: Actor = nnx.merge(graphdef, state)
        logits, _ = model(batch, positions, None, jnp.tile(mask, (rows, 1, 1)))
        return logits[0].astype(jnp.float32)

    return np.asarray(ask(state, tokens))


def _ask_decoder(decoder: Decoder, tokens: npt.NDArray[np.int32]) -> Logits:
    graphdef, state = nnx.split(decoder)

    @jax.jit
    def ask(state: Any, tokens: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, state)
        positions = jnp.arange(len(tokens), dtype=jnp.int32)
        hidden, _ = model(tokens, positions, None, causal_attention)
        return model.logits(hidden)

    return np.asarray(ask(state, tokens))


def _kind(decoder: Decoder) -> str:
    is_cpu = jax.default_backend() == "cpu"  # others may multiply float32 in TF32
    is_float32 = decoder.embed.embedding[...].dtype == np.float32
    return "exact" if is_cpu and is_float32 else "rounded"

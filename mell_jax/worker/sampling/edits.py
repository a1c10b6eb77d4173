"""Changes logits before a token is chosen: penalties, biases, barred tokens.

The order is vLLM's. The repetition penalty is that of arXiv 1909.05858. A row that
wants none of it keeps its logits to the bit.
"""

import jax.numpy as jnp
from jax import Array

from mell_jax.worker.sampling.rows import SamplingRows
from mell_jax.worker.sampling.state import RowState


def edit_logits(logits: Array, *, state: RowState, rows: SamplingRows) -> Array:
    """Returns f32[B, V]: penalties, then biases, then -inf for what is barred."""
    return _bias(_penalize(logits, state=state, rows=rows), state=state, rows=rows)


def _penalize(logits: Array, *, state: RowState, rows: SamplingRows) -> Array:
    """Repetition over prompt and output, then frequency and presence over output."""
    counts = state.output_counts[rows.slot]  # [B, V]
    is_output = counts > 0
    repetition = rows.repetition[:, None]
    repeated = jnp.where(logits > 0.0, logits / repetition, logits * repetition)
    is_seen = is_output | state.prompt_seen[rows.slot]
    values: Array = jnp.where(is_seen, repeated, logits)
    values = values - rows.frequency[:, None] * counts.astype(jnp.float32)
    present = jnp.where(is_output, rows.presence[:, None], jnp.float32(0.0))
    return values - present


def _bias(logits: Array, *, state: RowState, rows: SamplingRows) -> Array:
    """Adds the biases, bars what is not allowed, bars stop tokens; barred is -inf."""
    count, vocab = logits.shape
    row = jnp.arange(count, dtype=jnp.int32)[:, None]  # [B, 1]
    has_bias = rows.has_bias[:, None]
    ids = jnp.where(has_bias, state.bias_ids[rows.slot], jnp.int32(vocab))
    biased = logits.at[row, ids].add(state.bias_values[rows.slot], mode="drop")
    listed = jnp.zeros(logits.shape, jnp.bool_).at[row, ids].set(True, mode="drop")
    only_listed = has_bias & state.allow_only[rows.slot][:, None]
    allowed = jnp.where(listed | ~only_listed, biased, -jnp.inf)
    is_barred = rows.suppress_stop[:, None]
    stops = jnp.where(is_barred, state.stop_ids[rows.slot], jnp.int32(vocab))
    return allowed.at[row, stops].set(-jnp.inf, mode="drop")


def mask_shape(rows: int, vocab_size: int) -> tuple[int, int]:
    """Returns the shape of a mask for `rows`: [B, ceil(V / 32)]."""
    return rows, -(-vocab_size // 32)


def apply_mask(logits: Array, mask: Array) -> Array:
    """Returns f32[B, V]: -inf for what the mask bars, the rest to the bit.

    Args:
      logits: f32[B, V].
      mask: i32[B, ceil(V / 32)]; token t may be sampled if bit t % 32 of word t // 32
        is set.
    """
    rows, vocab = logits.shape
    shifts = jnp.arange(32, dtype=jnp.int32)[None, None]
    bits = (mask[:, :, None] >> shifts) & 1  # [B, W, 32]
    is_allowed = bits.reshape(rows, -1)[:, :vocab] == 1
    return jnp.where(is_allowed, logits, -jnp.inf)

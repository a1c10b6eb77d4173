"""The sampler remembers this about each row, on the device.

    slot   0 .. R-1      one running request each
    slot   R             scratch: padding rows and rows that sample nothing write here

Programs that change a part take it donated and return it updated in place; a slot is
given to a request by `set_row`, then `observe_tokens` replays what the request has
already read and written (its prompt and, after a preemption or a migration, its
own tokens).
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

BIAS_CAP = 1024
STOP_CAP = 16


class RowState(NamedTuple):
    """The state is of R rows and one scratch row.

    Ids equal to V in `bias_ids` and `stop_ids` are unused entries.
    """

    last_token: Array  # i32[R+1]: sampled last, the input of the row's next decode
    output_counts: Array  # i32[R+1, V]: how often the request generated each token
    prompt_seen: Array  # bool[R+1, V]: the token occurs in the request's prompt
    bias_ids: Array  # i32[R+1, BIAS_CAP], distinct but for unused entries
    bias_values: Array  # f32[R+1, BIAS_CAP]
    allow_only: Array  # bool[R+1]: no token outside `bias_ids` may be sampled
    stop_ids: Array  # i32[R+1, STOP_CAP]: barred until min_tokens is reached


def init_row_state(*, rows: int, vocab_size: int) -> RowState:
    """Returns the state of `rows` empty slots and a scratch slot; V = `vocab_size`."""
    if not (rows >= 1 and vocab_size >= 1):
        raise ValueError(
            f"rows and vocab_size must be at least 1, got {rows} and {vocab_size}"
        )
    slots = rows + 1
    return RowState(
        last_token=jnp.zeros((slots,), jnp.int32),
        output_counts=jnp.zeros((slots, vocab_size), jnp.int32),
        prompt_seen=jnp.zeros((slots, vocab_size), jnp.bool_),
        bias_ids=jnp.full((slots, BIAS_CAP), vocab_size, jnp.int32),
        bias_values=jnp.zeros((slots, BIAS_CAP), jnp.float32),
        allow_only=jnp.zeros((slots,), jnp.bool_),
        stop_ids=jnp.full((slots, STOP_CAP), vocab_size, jnp.int32),
    )


def set_row(
    state: RowState,
    *,
    slot: Array,
    last_token: Array,
    bias_ids: Array,
    bias_values: Array,
    allow_only: Array,
    stop_ids: Array,
) -> RowState:
    """Gives `slot` to a request and forgets what its last owner said.

    Jit it with `state` donated. `slot` i32[], `last_token` i32[] (0 before the first
    token), `bias_ids` i32[BIAS_CAP], `bias_values` f32[BIAS_CAP], `allow_only` bool[],
    `stop_ids` i32[STOP_CAP]. An id outside [0, V) is an unused entry. That
    `bias_ids` are distinct and `bias_values` finite is for the caller to check.
    """
    vocab = state.output_counts.shape[1]
    return RowState(
        last_token=state.last_token.at[slot].set(last_token),
        output_counts=state.output_counts.at[slot].set(0),
        prompt_seen=state.prompt_seen.at[slot].set(False),
        bias_ids=state.bias_ids.at[slot].set(_known_ids(bias_ids, vocab=vocab)),
        bias_values=state.bias_values.at[slot].set(bias_values),
        allow_only=state.allow_only.at[slot].set(allow_only),
        stop_ids=state.stop_ids.at[slot].set(_known_ids(stop_ids, vocab=vocab)),
    )


def observe_tokens(
    state: RowState, *, slot: Array, tokens: Array, num_prompt: Array, num_valid: Array
) -> RowState:
    """Counts a chunk of tokens that `slot`'s request has already read or written.

    Jit it with `state` donated and one chunk length C. `tokens` i32[C]: the first
    `num_prompt` are prompt, those up to `num_valid` were generated, the rest is
    padding; `slot`, `num_prompt`, `num_valid` i32[].
    """
    vocab = state.output_counts.shape[1]
    index = jnp.arange(tokens.shape[0], dtype=jnp.int32)  # [C]
    is_prompt = index < num_prompt
    is_output = (index >= num_prompt) & (index < num_valid)
    known = _known_ids(tokens, vocab=vocab)
    return state._replace(
        prompt_seen=state.prompt_seen.at[slot, jnp.where(is_prompt, known, vocab)].set(
            True, mode="drop"
        ),
        output_counts=state.output_counts.at[
            slot, jnp.where(is_output, known, vocab)
        ].add(1, mode="drop"),
    )


class TokenChunk(NamedTuple):
    """A chunk holds the arguments of one call of `observe_tokens`, on the host."""

    tokens: np.ndarray  # i32[C]
    num_prompt: np.int32
    num_valid: np.int32


def token_chunks(
    prompt: npt.ArrayLike, *, generated: npt.ArrayLike = (), chunk_tokens: int
) -> Iterator[TokenChunk]:
    """Cuts prompt + generated into chunks of `chunk_tokens` for `observe_tokens`.

    prompt [7 8 9], generated [4], C = 3 -> [7 8 9] prompt 3 valid 3, [4 . .] 0, 1
    """
    read, written = np.asarray(prompt, np.int32), np.asarray(generated, np.int32)
    everything = np.concatenate([read, written])
    for start in range(0, len(everything), chunk_tokens):
        part = everything[start : start + chunk_tokens]
        tokens = np.zeros(chunk_tokens, np.int32)
        tokens[: len(part)] = part
        num_prompt = min(max(len(read) - start, 0), len(part))
        yield TokenChunk(tokens, np.int32(num_prompt), np.int32(len(part)))


def count_tokens(
    counts: Array, *, slots: Array, tokens: Array, counted: Array
) -> Array:
    """Returns `output_counts` with each `counted` row's new token; jit it donated.

    `slots`, `tokens` i32[B] and `counted` bool[B]; a negative token is none.
    """
    counted = counted & (tokens >= 0)
    return counts.at[slots, jnp.maximum(tokens, 0)].add(counted.astype(jnp.int32))


def _known_ids(ids: Array, *, vocab: int) -> Array:
    """Ids outside [0, V) become V, which every scatter drops."""
    return jnp.where((ids >= 0) & (ids < vocab), ids, jnp.int32(vocab))

"""Runs the compiled sampler for a list of wishes, one slot each."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mell_jax.worker import sampling
from mell_jax.worker.sampling.choice import filtered, kept_weights
from mell_jax.worker.sampling.edits import apply_mask, edit_logits
from tests.worker.sampling_model import Wish

CHUNK = 8
VOCAB = 200
LANES = 32  # one shape for nearly all tests: compiled once


sampler = sampling.Sampler.jitted(
    platform="gpu"
)  # that of CPUs runs in every engine test


@jax.jit
def weights_of(
    logits: jax.Array, state: sampling.RowState, packed: jax.Array, mask: jax.Array
) -> jax.Array:
    """The weights from which the sampler draws when rows want everything."""
    rows = sampling.unpack_rows(packed)
    edited = apply_mask(edit_logits(logits, state=state, rows=rows), mask)
    return kept_weights(filtered(edited, rows=rows, digit_bits=4), rows=rows)


def sample(
    logits: jax.Array | np.ndarray,
    state: sampling.RowState,
    rows: sampling.SamplingRows,
    *,
    wants: sampling.Want,
    mask: np.ndarray | None = None,
) -> tuple[sampling.Sampled, sampling.RowState]:
    """Samples as the engine's step does; `state` stays."""
    values = jnp.asarray(logits)
    return sampler.sample(
        sampling.Logits(values=values, are_finite=sampling.are_finite(values)),
        jax.tree.map(jnp.copy, state),
        sampling.pack_rows(rows),
        wants=wants,
        mask=open_mask(*values.shape) if mask is None else mask,
    )


jitted_set_row = jax.jit(sampling.set_row, donate_argnums=0)
jitted_observe = jax.jit(sampling.observe_tokens, donate_argnums=0)


def open_mask(rows: int, vocab: int) -> np.ndarray:
    """Lets every token through."""
    return np.full(sampling.mask_shape(rows, vocab), -1, np.int32)


def mask_for(wishes: Sequence[Wish]) -> np.ndarray:
    """The tokens that each wish's mask lets through, as bits."""
    flags = np.zeros((len(wishes), 32 * sampling.mask_shape(1, VOCAB)[1]), np.bool_)
    for row, wish in enumerate(wishes):
        let_through = wish.let_through
        flags[row, slice(None) if let_through is None else list(let_through)] = True
    return np.packbits(flags, axis=1, bitorder="little").view(np.int32)


def rows_for(wishes: Sequence[Wish]) -> sampling.SamplingRows:
    """The wishes as the host's rows."""

    def column(name: str, dtype: type[np.generic]) -> np.ndarray:
        return np.array([getattr(wish, name) for wish in wishes], dtype)

    floats = ("temperature", "top_p", "min_p", "presence", "frequency", "repetition")
    seeds = np.array([wish.seed for wish in wishes], np.uint64)
    return sampling.SamplingRows(
        slot=np.arange(len(wishes), dtype=np.int32),
        **{name: column(name, np.float32) for name in floats},
        top_k=column("top_k", np.int32),
        position=column("position", np.int32),
        seed_hi=(seeds >> np.uint64(32)).astype(np.uint32),
        seed_lo=seeds.astype(np.uint32),
        suppress_stop=column("is_stop_barred", np.bool_),
        has_bias=np.array([bool(w.bias) or w.is_allow_only for w in wishes]),
        is_processed=column("is_processed", np.bool_),
    )


def admit(state: sampling.RowState, *, slot: int, wish: Wish) -> sampling.RowState:
    """Gives the slot to the wish's request, as the engine does at admission."""
    ids = np.full(sampling.BIAS_CAP, -1, np.int32)
    values = np.zeros(sampling.BIAS_CAP, np.float32)
    ids[: len(wish.bias)] = list(wish.bias)
    values[: len(wish.bias)] = list(wish.bias.values())
    stops = np.full(sampling.STOP_CAP, -1, np.int32)
    stops[: len(wish.stops)] = wish.stops
    state = jitted_set_row(
        state,
        slot=np.int32(slot),
        last_token=np.int32(0),
        bias_ids=ids,
        bias_values=values,
        allow_only=np.bool_(wish.is_allow_only),
        stop_ids=stops,
    )
    for chunk in sampling.token_chunks(
        wish.prompt, generated=wish.generated, chunk_tokens=CHUNK
    ):
        state = jitted_observe(state, slot=np.int32(slot), **chunk._asdict())
    return state


def state_for(wishes: Sequence[Wish]) -> sampling.RowState:
    """LANES slots with wish i admitted at slot i."""
    state = sampling.init_row_state(rows=LANES, vocab_size=VOCAB)
    for slot, wish in enumerate(wishes):
        state = admit(state, slot=slot, wish=wish)
    return state


def run(
    logits: Sequence[Sequence[float]] | np.ndarray,
    wishes: Sequence[Wish],
    *,
    state: sampling.RowState | None = None,
    slots: Sequence[int] | None = None,
    wants_logprobs: bool = False,
) -> tuple[sampling.Sampled, sampling.RowState]:
    """Samples once, wish i in slot i unless told otherwise; row i answers wish i.

    The step itself always has LANES rows of VOCAB logits: missing tokens are too
    unlikely to be seen, missing rows are padding.
    """
    count = len(wishes)
    padded = np.full((LANES, VOCAB), -1e30, np.float32)
    given = np.asarray(logits, np.float32)
    padded[:count, : given.shape[1]] = given
    rows = rows_for([*wishes, *[Wish()] * (LANES - count)])
    rows.slot[:] = LANES
    rows.slot[:count] = range(count) if slots is None else slots
    wants = sampling.wants_of(rows)
    if wants_logprobs:
        wants |= sampling.Want.LOGPROBS
        if any(wish.is_processed for wish in wishes):
            wants |= sampling.Want.PROCESSED
    if any(wish.let_through is not None for wish in wishes):
        wants |= sampling.Want.MASK
    sampled, after = sample(
        padded,
        state_for(wishes) if state is None else state,
        rows,
        wants=wants,
        mask=mask_for([*wishes, *[Wish()] * (LANES - count)]),
    )
    return jax.tree.map(lambda leaf: leaf[:count], sampled), after


def draw_many(logits: np.ndarray, *, wish: Wish, count: int) -> np.ndarray:
    """i32[count]: the wish's tokens at positions 0 .. count-1, same logits."""
    lanes = 2048
    state = sampling.init_row_state(rows=1, vocab_size=len(logits))
    rows = rows_for([wish] * lanes)
    tiled = jnp.asarray(np.tile(logits.astype(np.float32), (lanes, 1)))
    tokens = []
    for start in range(0, count, lanes):
        moved = rows._replace(
            slot=np.ones(lanes, np.int32),
            position=np.arange(start, start + lanes, dtype=np.int32),
        )
        sampled, _ = sample(tiled, state, moved, wants=sampling.wants_of(moved))
        tokens.append(np.asarray(sampled.tokens))
    return np.concatenate(tokens)[:count]

"""Makes tokens of logits by a few programs, of which the host picks what rows want.

    edit       penalties, biases, allowed tokens, barred stops
    mask       of tokens that a grammar lets through
    filter     by top-k and top-p
    greedy | drawn
    count      of new tokens, for penalties
    processed  what rows are drawn from, where they want to know that
    logprobs   of the raw logits, or of those

No program branches: a GPU's host would wait for the predicate, and with it for the
whole model. A greedy row answers in each program what it answers alone.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from mell_jax.worker.sampling.choice import (
    drawn,
    filtered,
    first_argmax,
    processed,
)
from mell_jax.worker.sampling.edits import apply_mask, edit_logits, mask_shape
from mell_jax.worker.sampling.logprobs import TokenLogprobs, token_logprobs
from mell_jax.worker.sampling.rows import (
    EVERYTHING,
    NOTHING,
    SamplingRows,
    Want,
    has_penalty,
    unpack_rows,
)
from mell_jax.worker.sampling.state import RowState, count_tokens

NOT_FINITE = -1
"""In the place of a token: a logit of the row is NaN or infinite."""
NONE_ALLOWED = -2
"""In the place of a token: what the row's request asks for bars every token."""
PackedRows = Array | npt.NDArray[np.int32]
ALL_VARIANTS = (NOTHING, Want.RANDOM | Want.LOGPROBS | Want.PROCESSED, EVERYTHING)
"""Between them these want every program."""


class Logits(NamedTuple):
    """A forward pass says this of the rows that sample."""

    values: Array  # f32[B, V]
    are_finite: Array  # bool[B]: every value of the row is


class Sampled(NamedTuple):
    """A step sampled this."""

    tokens: Array  # i32[B], or NOT_FINITE, or NONE_ALLOWED
    logprobs: TokenLogprobs | None  # where some row wanted them


class SamplerPrograms(NamedTuple):
    """These are jitted, or compiled for a number of rows; see `Sampler.jitted`."""

    edit: Any  # (values, state, rows) -> values
    mask: Any  # (values, mask) -> values
    filter: Any  # (values, rows) -> values
    greedy: Any  # (values, are_finite, last_token, rows) -> tokens, last_token
    drawn: Any  # likewise
    count: Any  # (counts, tokens, rows) -> counts
    processed: Any  # (raw, values, rows) -> values
    logprobs: Any  # (values, tokens) -> TokenLogprobs


@final
class Sampler:
    """The sampler is what instances on one kind of device share."""

    def __init__(self, programs: SamplerPrograms) -> None:
        self.programs = programs

    @classmethod
    def jitted(cls, *, platform: str) -> "Sampler":
        """Returns one that compiles for each number of rows it is called with.

        Args:
          platform: of the devices.
        """
        # A CPU counts one value at a time best.
        digit_bits = 1 if platform == "cpu" else 4
        return cls(
            SamplerPrograms(
                edit=jax.jit(_edit),
                mask=jax.jit(apply_mask),
                filter=jax.jit(functools.partial(_filter, digit_bits=digit_bits)),
                greedy=_choosing(_greedy),
                drawn=_choosing(drawn),
                count=jax.jit(_count, donate_argnums=0),
                processed=jax.jit(_processed),
                logprobs=jax.jit(token_logprobs),
            )
        )

    def sample(
        self,
        logits: Logits,
        state: RowState,
        rows: PackedRows,
        *,
        wants: Want,
        mask: PackedRows | None = None,
    ) -> tuple[Sampled, RowState]:
        """Samples one token per row and records it in `state`, which is donated.

        Rows for the scratch slot sample nothing (padding, or a prompt not yet read to
        its end); their answers mean nothing. A row with a NaN or an infinite logit
        answers `NOT_FINITE` and disturbs no other row, one whose every token is barred
        `NONE_ALLOWED`.

        Args:
          logits: B rows of them.
          state: of all slots.
          rows: i32[ROW_COLUMNS, B]; see `rows.pack_rows`.
          wants: what at least one row wants.
          mask: i32[B, ceil(V / 32)] where a row wants it; see `edits.apply_mask`.
        """
        values = logits.values
        if wants & (Want.PENALTY | Want.BIAS):
            values = self.programs.edit(values, state, rows)
        if wants & Want.MASK:
            values = self.programs.mask(values, mask)
        if wants & Want.FILTER:
            values = self.programs.filter(values, rows)
        choose = self.programs.drawn if wants & Want.RANDOM else self.programs.greedy
        tokens, last = choose(values, logits.are_finite, state.last_token, rows)
        state = state._replace(last_token=last)
        if wants & Want.PENALTY:
            counts = self.programs.count(state.output_counts, tokens, rows)
            state = state._replace(output_counts=counts)
        logprobs = None
        if wants & Want.LOGPROBS:
            told = logits.values
            if wants & Want.PROCESSED:
                told = self.programs.processed(told, values, rows)
            logprobs = self.programs.logprobs(told, tokens)
        return Sampled(tokens=tokens, logprobs=logprobs), state

    def arguments(
        self, logits: Any, state: RowState, rows: PackedRows
    ) -> SamplerPrograms:
        """Returns what each program is called with for as many rows."""
        values, finite, last = logits.values, logits.are_finite, state.last_token
        tokens = jax.ShapeDtypeStruct(finite.shape, jnp.int32, sharding=finite.sharding)
        choosing = (values, finite, last, rows)
        return SamplerPrograms(
            edit=(values, state, rows),
            mask=(values, np.zeros(mask_shape(*values.shape), np.int32)),
            filter=(values, rows),
            greedy=choosing,
            drawn=choosing,
            count=(state.output_counts, tokens, rows),
            processed=(values, values, rows),
            logprobs=(values, tokens),
        )

    def traced(
        self, logits: Any, state: RowState, rows: PackedRows
    ) -> list[jax.stages.Traced]:
        """Returns each program for as many rows, to be lowered and compiled."""
        called = zip(self.programs, self.arguments(logits, state, rows), strict=True)
        return [program.trace(*arguments) for program, arguments in called]


def _choosing(choose: Callable[..., Array]) -> Any:
    """Returns a program: (values, are_finite, last_token, rows) -> tokens, last_token.

    It is jitted, with `last_token` donated.
    """

    def program(
        values: Array, are_finite: Array, last_token: Array, packed: Array
    ) -> tuple[Array, Array]:
        rows = unpack_rows(packed)
        chosen = choose(values, rows=rows)
        at = jnp.arange(chosen.shape[0], dtype=jnp.int32)
        is_allowed = values[at, chosen] > -jnp.inf
        tokens = jnp.where(is_allowed, chosen, jnp.int32(NONE_ALLOWED))
        tokens = jnp.where(are_finite, tokens, jnp.int32(NOT_FINITE))
        return tokens, last_token.at[rows.slot].set(jnp.maximum(tokens, 0))

    return jax.jit(program, donate_argnums=2)


def _processed(raw: Array, values: Array, packed: Array) -> Array:
    """Returns the raw logits of a row that wants these, to the bit."""
    rows = unpack_rows(packed)
    told = processed(values, rows=rows)
    return jnp.where(rows.is_processed[:, None], told, raw)


def _filter(values: Array, packed: Array, *, digit_bits: int) -> Array:
    return filtered(values, rows=unpack_rows(packed), digit_bits=digit_bits)


def _greedy(values: Array, *, rows: SamplingRows) -> Array:
    del rows
    return first_argmax(values)


def _edit(values: Array, state: RowState, packed: Array) -> Array:
    return edit_logits(values, state=state, rows=unpack_rows(packed))


def _count(counts: Array, tokens: Array, packed: Array) -> Array:
    rows = unpack_rows(packed)
    return count_tokens(
        counts, slots=rows.slot, tokens=tokens, counted=has_penalty(rows)
    )

"""Compares what a module says by itself with what the engine makes of it, at the start.

A module that is not ours may attend as it should and yet keep no account of its cache,
count positions from the start of a step, or take two sequences for one. Two prompts are
computed by plain causal attention, and then in three steps of the engine:

    mixed    A A A A A A A A A  B B B     the first part of A, all of B
    mixed    A A A A A                    more of A, on keys of the pool
    decode   A                            its last token alone

The programs are those that serve; only the plain pass is compiled for this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from mell_jax.engine.settled import SettledConfig
from mell_jax.models.attention import causal_attention
from mell_jax.models.servable import ServableModel
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.layout import new_vector
from mell_jax.worker.pool import PAGE_TOKENS
from mell_jax.worker.settings import tracing_settings

LONGEST = 24  # tokens: more than a page
LARGEST_ERROR = {"exact": 1e-3, "rounded": 0.1}
"""Of the logits less their mean, relative: where all is float32, and elsewhere."""

Logits = npt.NDArray[np.float32]  # [V]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece is what one step computes of a prompt."""

    tokens: npt.NDArray[np.int32]  # [n], of the whole prompt
    start: int
    end: int
    first_page: int  # of those that the prompt has


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """The module has said what it makes of two prompts by itself."""

    name: str  # of its class
    prompts: tuple[npt.NDArray[np.int32], ...]
    expected: tuple[Logits, ...]  # of each prompt's last token
    largest_error: float

    def check(self, worker: DeviceWorker) -> None:
        """Computes the prompts by an engine's steps.

        Its pool gets keys and values that no sequence owns.

        Raises:
          ValueError: something else comes out.
        """
        count = len(self.prompts)
        groups = worker.buckets[0].groups
        if worker.pool.shape[0] <= groups * sum(map(_count_pages, self.prompts)):
            count = 1  # page 0 is scratch
        for number, found in enumerate(_serve(worker, self.prompts[:count])):
            error = relative_error(found, expected=self.expected[number])
            if not (error <= self.largest_error):
                raise ValueError(
                    f"{self.name} computes other logits over pages than with "
                    f"causal_attention: of prompt {number} they differ by {error:.3g} "
                    f"of their size, at most {self.largest_error:g} is rounding. What "
                    "it computes for a token may depend on the token, its position and "
                    "what attend returns; each layer has its own number and hands on "
                    "the cache that attend returned (mell_jax.models.servable)"
                )


def ask_module(model: ServableModel, *, settled: SettledConfig) -> SelfCheck:
    """Returns the check of a module that is on some device, in its own form.

    Args:
      model: a copy in the type that is served.
      settled: what the engine's steps hold.
    """
    vocab = model.config.vocab_size
    length = min(LONGEST, settled.max_model_len, max(settled.mixed_tokens))
    prompts = [np.arange(1, length + 1, dtype=np.int32) * 7919 % vocab]
    if settled.max_rows > 1 and length >= 4:
        prompts.append(np.arange(3, 3 + length // 4, dtype=np.int32) * 104729 % vocab)
    graphdef, state = nnx.split(model)

    @jax.jit
    def plain(state: Any, tokens: jax.Array) -> jax.Array:
        merged: ServableModel = nnx.merge(graphdef, state)
        positions = jnp.arange(len(tokens), dtype=jnp.int32)
        hidden, _ = merged(tokens, positions, None, causal_attention)
        return merged.logits(hidden).astype(jnp.float32)

    # One shape for all: what comes after a token does not change its logits.
    padded = [np.pad(prompt, (0, length - len(prompt))) for prompt in prompts]
    with tracing_settings():
        scores = [np.asarray(plain(state, tokens)) for tokens in padded]
    return SelfCheck(
        name=type(model).__name__,
        prompts=tuple(prompts),
        expected=tuple(
            each[len(prompt) - 1] for each, prompt in zip(scores, prompts, strict=True)
        ),
        largest_error=LARGEST_ERROR[_kind(settled)],
    )


def relative_error(found: Logits, *, expected: Logits) -> float:
    """Returns how far logits [V] are from others; a constant in all is nothing."""
    found, expected = found - found.mean(), expected - expected.mean()
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected)) / max(size, 1e-6)


def _kind(settled: SettledConfig) -> str:
    is_cpu = jax.default_backend() == "cpu"  # others may multiply float32 in TF32
    types = {np.dtype(settled.dtype), np.dtype(settled.kv_dtype)}
    return "exact" if is_cpu and types == {np.dtype(np.float32)} else "rounded"


def _serve(
    worker: DeviceWorker, prompts: Sequence[npt.NDArray[np.int32]]
) -> list[Logits]:
    """Returns the logits of each prompt's last token, in the order of prompts."""
    long, *short = prompts
    last, middle = len(long) - 1, (len(long) - 1) * 2 // 3
    free = 1 + _count_pages(long)
    pages = sum(map(_count_pages, prompts))
    others = [
        Piece(tokens=one, start=0, end=len(one), first_page=free) for one in short
    ]
    first = Piece(tokens=long, start=0, end=middle, first_page=1)
    second = Piece(tokens=long, start=middle, end=last, first_page=1)
    third = Piece(tokens=long, start=last, end=last + 1, first_page=1)
    found = _step(worker, [first, *others], pages=pages, is_decode=False)[1:]
    _step(worker, [second], pages=pages, is_decode=False)
    return [*_step(worker, [third], pages=pages, is_decode=True), *found]


def _count_pages(prompt: npt.NDArray[np.int32]) -> int:
    return -(-len(prompt) // PAGE_TOKENS)


def _step(
    worker: DeviceWorker, pieces: Sequence[Piece], *, pages: int, is_decode: bool
) -> list[Logits]:
    """Returns the logits of each piece's last token; an empty piece is left out.

    Args:
      worker: of the engine.
      pieces: one for each row.
      pages: of all prompts, in each group of layers.
      is_decode: picks the program.
    """
    pieces = [piece for piece in pieces if piece.end > piece.start]
    lengths = [piece.end - piece.start for piece in pieces]
    if not pieces:
        return []
    bucket = worker.choose_bucket(
        tokens=sum(lengths), rows=len(pieces), is_decode=is_decode
    )
    vector, inputs = new_vector(bucket)
    inputs.sources[:] = worker.scratch_slot
    inputs.owners[:] = bucket.rows
    ends = np.cumsum(lengths, dtype=np.int32)
    inputs.cu_q_lens[1:] = ends[-1]
    for row, (piece, end) in enumerate(zip(pieces, ends, strict=True)):
        here = slice(end - lengths[row], end)
        inputs.token_ids[here] = piece.tokens[piece.start : piece.end]
        inputs.positions[here] = np.arange(piece.start, piece.end)
        inputs.owners[here] = row
        inputs.kv_lens[row] = piece.end
        inputs.cu_q_lens[row + 1] = end
        inputs.last[row] = end - 1
        own = piece.first_page + np.arange(-(-piece.end // PAGE_TOKENS))
        for group, table in enumerate(inputs.page_table):
            table[row, : len(own)] = own + group * pages
    values = np.asarray(worker.forward(vector, bucket=bucket).logits.values)
    return list(values[: len(pieces)])

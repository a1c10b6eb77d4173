"""The host tells the device all of a forward pass in one int32 vector.

A pass over T tokens and B rows of M pages in each of G groups is one transfer. The host
takes a fresh vector for each step and fills named views into it (a CPU device may read
it in place, so it is never written again); the compiled pass cuts it apart the same
way. What the sampler needs to know is an array of its own; see `worker.sampling.rows`.
"""

import math
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import jax
import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket is a compiled shape. When decoding, row i has one token, token i."""

    tokens: int  # T
    rows: int  # B
    pages: int  # M
    is_decode: bool
    groups: int = 1  # G, of layers, each with a table of pages

    def __str__(self) -> str:
        kind = "decode" if self.is_decode else "mixed"
        return f"{kind} {self.tokens} tokens, {self.rows} rows"


class StepInputs(NamedTuple, Generic[T]):
    """The inputs are a step vector's parts: NumPy views, or arrays in the pass."""

    token_ids: T  # [T] negative: the newest token of its row, still on the device
    positions: T  # [T]
    owners: T  # [T] row of the token; B for padding
    sources: T  # [B] slot of the row's sequence
    kv_lens: T  # [B]
    cu_q_lens: T  # [B + 1]
    last: T  # [B] the row's last token
    page_table: T  # [G, B, M]


def part_shapes(bucket: Bucket) -> StepInputs[tuple[int, ...]]:
    """Returns shape of each part of the vector, in order."""
    tokens, rows = (bucket.tokens,), (bucket.rows,)
    return StepInputs(
        token_ids=tokens,
        positions=tokens,
        owners=tokens,
        sources=rows,
        kv_lens=rows,
        cu_q_lens=(bucket.rows + 1,),
        last=rows,
        page_table=(bucket.groups, bucket.rows, bucket.pages),
    )


def vector_size(bucket: Bucket) -> int:
    """Returns length of the step vector, in int32."""
    return sum(math.prod(shape) for shape in part_shapes(bucket))


def new_vector(bucket: Bucket) -> tuple[Int32Array, StepInputs[Int32Array]]:
    """Returns a vector of zeros and the views into it."""
    vector = np.zeros(vector_size(bucket), np.int32)
    return vector, _views(vector, bucket)


def cut_vector(vector: jax.Array, *, bucket: Bucket) -> StepInputs[jax.Array]:
    """Returns the parts of a step vector inside a compiled pass."""
    return _views(vector, bucket)


Vector = TypeVar("Vector", Int32Array, jax.Array)


def _views(vector: Vector, bucket: Bucket) -> StepInputs[Vector]:
    parts: list[Vector] = []
    start = 0
    for shape in part_shapes(bucket):
        end = start + math.prod(shape)
        parts.append(vector[start:end].reshape(shape))
        start = end
    return StepInputs(*parts)

"""What is read by a source is what its pieces were made of."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.checkpoints.sources import (
    Affine,
    Array,
    Concatenate,
    Pick,
    Piece,
    Reorder,
    Reshape,
    Slice,
    Source,
    Stack,
    Take,
    Transpose,
    assemble,
    shape_of,
)


class Tensors:
    """A checkpoint in memory, which remembers what was read."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self.tensors = tensors
        self.rows_read: list[slice | None] = []

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    @property
    def dtype(self) -> Any:
        return next(iter(self.tensors.values())).dtype

    def read(self, name: str, *, rows: slice | None = None, dtype: Any = None) -> Array:
        self.rows_read.append(rows)
        found = self.tensors[name] if rows is None else self.tensors[name][rows]
        return found.astype(dtype or self.dtype)


def values(*shape: int, dtype: Any = np.float32) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape).astype(dtype)


A, B = values(6, 4), -values(6, 4)
ROWS = Slice(Take("a"), 0, 0, 2)
CASES: dict[str, tuple[Source, Array]] = {
    "take": (Take("a"), A),
    "rows": (Slice(Take("a"), 0, 2, 5), A[2:5]),
    "columns": (Slice(Take("a"), 1, 1, 3), A[:, 1:3]),
    "row": (Pick(Take("a"), 0, 4), A[4]),
    "column": (Pick(Take("a"), 1, 3), A[:, 3]),
    "stack": (Stack((Take("a"), Take("b"))), np.stack([A, B])),
    "one below the other": (
        Concatenate((Take("a"), Take("b")), sizes=(6, 6)),
        np.concatenate([A, B]),
    ),
    "side by side": (
        Concatenate((Take("a"), Take("b")), axis=1, sizes=(4, 4)),
        np.concatenate([A, B], 1),
    ),
    "transpose": (Transpose(Take("a")), A.T),
    "axes": (
        Transpose(Stack((Take("a"), Take("b"))), (2, 0, 1)),
        np.stack([A, B]).transpose(2, 0, 1),
    ),
    "reshape": (Reshape(Take("a"), (3, 8), (6, 4)), A.reshape(3, 8)),
    "reorder": (Reorder(Take("a"), 0, (5, 0, 4, 1, 3, 2)), A[[5, 0, 4, 1, 3, 2]]),
    "affine": (Affine(Take("a"), factor=4.0, plus=1.0), 4 * A + 1),
    "all": (
        Transpose(
            Reorder(Affine(Slice(Take("a"), 0, 0, 2), plus=-1.0), 1, (3, 2, 1, 0))
        ),
        (A[:2, ::-1] - 1).T,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_source_reads_what_it_says_of_the_shape_it_says(name: str) -> None:
    source, expected = CASES[name]
    reader = Tensors({"a": A, "b": B})
    assert source.shape(reader) == expected.shape
    np.testing.assert_array_equal(source.read(reader), expected)
    assert set(source.names()) <= {"a", "b"}


@pytest.mark.parametrize("name", CASES)
def test_the_pieces_of_what_was_read_are_where_it_was(name: str) -> None:
    source, expected = CASES[name]
    for piece in source.pieces(expected):
        whole = {"a": A, "b": B}[piece.name]
        axis = piece.axis or 0
        stop = piece.start + piece.values.shape[axis]
        part = whole.take(range(piece.start, stop), axis)
        np.testing.assert_array_equal(piece.values, part)


@pytest.mark.parametrize(
    "source",
    [
        Slice(Take("a"), 0, 4, 7),
        Slice(Take("a"), 2, 0, 1),
        Pick(Take("a"), 0, 6),
        Pick(Take("a"), 2, 0),
        Stack((Take("a"), Transpose(Take("b")))),
        Concatenate((Take("a"), Transpose(Take("b")))),
        Concatenate((Take("a"), Take("b")), axis=2),
        Transpose(Take("a"), (0, 2, 1)),
        Reshape(Take("a"), (3, 8), (4, 6)),
        Reorder(Take("a"), 0, (0, 1)),
        Reorder(Take("a"), 2, (0, 1)),
    ],
    ids=repr,
)
def test_tensors_that_do_not_fit_have_no_shape(source: Source) -> None:
    assert source.shape(Tensors({"a": A, "b": B})) == ()


def test_only_the_rows_that_are_wanted_are_read() -> None:
    reader = Tensors({"a": A})
    Transpose(Slice(Take("a"), 0, 2, 5)).read(reader)
    Pick(Take("a"), 0, 4).read(reader)
    assert reader.rows_read == [slice(2, 5), slice(4, 5)]


@given(cuts=st.lists(st.integers(0, 9), max_size=4), seed=st.randoms())
def test_a_tensor_is_put_together_from_pieces_in_any_order(
    cuts: Any, seed: Any
) -> None:
    whole = values(9, 2)
    ends = sorted({0, 9, *cuts})
    pieces = [
        Piece(name="a", values=whole[start:stop], axis=0, start=start)
        for start, stop in itertools.pairwise(ends)
    ]
    seed.shuffle(pieces)
    assert shape_of(pieces) == whole.shape
    np.testing.assert_array_equal(assemble(pieces)["a"], whole)


@pytest.mark.parametrize(
    "pieces",
    [
        [Piece(name="a", values=A, axis=0, start=1)],
        [Piece(name="a", values=A, axis=0), Piece(name="a", values=A, axis=0, start=5)],
        [Piece(name="a", values=A, axis=0), Piece(name="a", values=A, axis=1, start=4)],
        [Piece(name="a", values=A), Piece(name="a", values=A)],
    ],
    ids=["hole", "overlap", "two axes", "twice"],
)
def test_pieces_that_make_no_tensor_are_refused(pieces: list[Piece]) -> None:
    with pytest.raises(ValueError, match=r"^a: its pieces"):
        assemble(pieces)


def test_a_factor_is_applied_in_float32() -> None:
    reader = Tensors({"a": np.array([3e-3], np.float16)})
    read = Affine(Take("a"), plus=-1.0).read(reader)
    assert read.dtype == np.float16
    assert read[0] == np.float16(np.float32(np.float16(3e-3)) - 1)

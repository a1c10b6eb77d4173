"""Says how a parameter is made of stored tensors: a value to read by, or to undo.

    q_proj.kernel = Transpose(Take("model.layers.0.self_attn.q_proj.weight"))
    k_proj.kernel = Transpose(Slice(Take("...qkv_proj.weight"), axis=0, 64, 96))

Reading asks a `Reader` for tensors by name; writing takes a source apart into `Piece`s
of them. Nothing is read before shapes were compared.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.errors import CheckpointError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


class Reader(Protocol):
    """Knows the tensors of a checkpoint, in the precision that is wanted."""

    def shape(self, name: str, /) -> Shape:
        """Returns the shape of a tensor.

        Raises:
          CheckpointError: there is none of this name.
        """
        ...

    def read(
        self,
        name: str,
        /,
        *,
        rows: slice | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> Array:
        """Returns the values of a tensor, or of some of its rows (axis 0).

        Args:
          rows: None for all.
          dtype: None for the reader's own.
        """
        ...

    @property
    def dtype(self) -> npt.DTypeLike:
        """Returns the precision that is wanted."""
        ...


@dataclass(frozen=True, slots=True)
class _Wide:
    """The same tensors in float32, to compute with."""

    reader: Reader

    @property
    def dtype(self) -> npt.DTypeLike:
        return np.float32

    def shape(self, name: str, /) -> Shape:
        return self.reader.shape(name)

    def read(
        self,
        name: str,
        /,
        *,
        rows: slice | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> Array:
        wanted = self.dtype if dtype is None else dtype
        return self.reader.read(name, rows=rows, dtype=wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of a stored tensor: all of it, or what begins at `start` of `axis`."""

    name: str
    values: Array
    axis: int | None = None
    start: int = 0


class Source(ABC):
    """A source says where the values of one parameter come from."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Returns the tensors that are needed."""

    @abstractmethod
    def shape(self, reader: Reader) -> Shape:
        """Returns the shape of what `read` gives."""

    @abstractmethod
    def read(self, reader: Reader) -> Array:
        """Returns the values; they may be a view of another order in memory."""

    @abstractmethod
    def pieces(self, values: Array) -> Iterator[Piece]:
        """Returns the pieces of tensors from which `read` would make `values`."""


@dataclass(frozen=True, slots=True)
class Take(Source):
    """The tensor as it is."""

    name: str

    def names(self) -> Iterator[str]:
        yield self.name

    def shape(self, reader: Reader) -> Shape:
        return reader.shape(self.name)

    def read(self, reader: Reader) -> Array:
        return reader.read(self.name)

    def pieces(self, values: Array) -> Iterator[Piece]:
        yield Piece(name=self.name, values=values)


@dataclass(frozen=True, slots=True)
class Slice(Source):
    """A slice is what lies from `start` to `stop` on an axis of a tensor."""

    source: Take
    axis: int
    start: int
    stop: int

    def names(self) -> Iterator[str]:
        return self.source.names()

    def shape(self, reader: Reader) -> Shape:
        whole = self.source.shape(reader)
        is_inside = self.axis < len(whole) and self.stop <= whole[self.axis]
        return _changed(whole, self.axis, self.stop - self.start) if is_inside else ()

    def read(self, reader: Reader) -> Array:
        wanted = slice(self.start, self.stop)
        if self.axis == 0:
            return reader.read(self.source.name, rows=wanted)
        return self.source.read(reader)[(slice(None),) * self.axis + (wanted,)]

    def pieces(self, values: Array) -> Iterator[Piece]:
        yield Piece(
            name=self.source.name, values=values, axis=self.axis, start=self.start
        )


@dataclass(frozen=True, slots=True)
class Pick(Source):
    """One entry of an axis, which is gone then: a layer of stacked ones."""

    source: Source
    axis: int
    index: int

    def names(self) -> Iterator[str]:
        return self.source.names()

    def shape(self, reader: Reader) -> Shape:
        whole = self.source.shape(reader)
        if not (self.axis < len(whole) and self.index < whole[self.axis]):
            return ()
        return whole[: self.axis] + whole[self.axis + 1 :]

    def read(self, reader: Reader) -> Array:
        if self.axis == 0 and isinstance(self.source, Take):
            rows = slice(self.index, self.index + 1)
            return reader.read(self.source.name, rows=rows).reshape(self.shape(reader))
        whole = self.source.read(reader)
        return whole.take([self.index], axis=self.axis).squeeze(self.axis)

    def pieces(self, values: Array) -> Iterator[Piece]:
        if not isinstance(self.source, Take):
            raise NotImplementedError("only entries of whole tensors can be written")
        yield Piece(
            name=self.source.name,
            values=np.expand_dims(values, self.axis),
            axis=self.axis,
            start=self.index,
        )


@dataclass(frozen=True, slots=True)
class Stack(Source):
    """Several sources of one shape along a new first axis."""

    sources: tuple[Source, ...]

    def names(self) -> Iterator[str]:
        return _all_names(self.sources)

    def shape(self, reader: Reader) -> Shape:
        shapes = {one.shape(reader) for one in self.sources}
        return (len(self.sources), *shapes.pop()) if len(shapes) == 1 else ()

    def read(self, reader: Reader) -> Array:
        return np.stack([one.read(reader) for one in self.sources])

    def pieces(self, values: Array) -> Iterator[Piece]:
        for one, part in zip(self.sources, values, strict=True):
            yield from one.pieces(part)


@dataclass(frozen=True, slots=True)
class Concatenate(Source):
    """Several sources one after the other on an axis.

    Args:
      sizes: of each on that axis; without them it can be read only.
    """

    sources: tuple[Source, ...]
    axis: int = 0
    sizes: tuple[int, ...] = ()

    def names(self) -> Iterator[str]:
        return _all_names(self.sources)

    def shape(self, reader: Reader) -> Shape:
        shapes = [one.shape(reader) for one in self.sources]
        if any(len(shape) <= self.axis for shape in shapes):
            return ()
        others = {_changed(shape, self.axis, 0) for shape in shapes}
        if len(others) > 1:
            return ()
        total = sum(shape[self.axis] for shape in shapes)
        return _changed(shapes[0], self.axis, total)

    def read(self, reader: Reader) -> Array:
        return np.concatenate([one.read(reader) for one in self.sources], self.axis)

    def pieces(self, values: Array) -> Iterator[Piece]:
        ends = np.cumsum(self.sizes)[:-1]
        parts = np.split(values, ends, axis=self.axis)
        for one, part in zip(self.sources, parts, strict=True):
            yield from one.pieces(part)


@dataclass(frozen=True, slots=True)
class Transpose(Source):
    """The same with its axes in another order; in reverse by default."""

    source: Source
    axes: tuple[int, ...] | None = None

    def names(self) -> Iterator[str]:
        return self.source.names()

    def shape(self, reader: Reader) -> Shape:
        whole = self.source.shape(reader)
        axes = self.axes or tuple(range(len(whole)))[::-1]
        if sorted(axes) != list(range(len(whole))):
            return ()
        return tuple(whole[axis] for axis in axes)

    def read(self, reader: Reader) -> Array:
        return self.source.read(reader).transpose(self.axes)

    def pieces(self, values: Array) -> Iterator[Piece]:
        back = None if self.axes is None else np.argsort(self.axes)
        return self.source.pieces(values.transpose(back))


@dataclass(frozen=True, slots=True)
class Reshape(Source):
    """The same values in order, as another shape.

    Args:
      stored: the shape of `source`.
    """

    source: Source
    wanted: Shape
    stored: Shape

    def names(self) -> Iterator[str]:
        return self.source.names()

    def shape(self, reader: Reader) -> Shape:
        return self.wanted if self.source.shape(reader) == self.stored else ()

    def read(self, reader: Reader) -> Array:
        return self.source.read(reader).reshape(self.wanted)

    def pieces(self, values: Array) -> Iterator[Piece]:
        return self.source.pieces(values.reshape(self.stored))


@dataclass(frozen=True, slots=True)
class Reorder(Source):
    """The entries of an axis in another order: entry i is `order[i]` of the source."""

    source: Source
    axis: int
    order: tuple[int, ...]

    def names(self) -> Iterator[str]:
        return self.source.names()

    def shape(self, reader: Reader) -> Shape:
        whole = self.source.shape(reader)
        is_right = self.axis < len(whole) and whole[self.axis] == len(self.order)
        return whole if is_right else ()

    def read(self, reader: Reader) -> Array:
        return np.take(self.source.read(reader), self.order, axis=self.axis)

    def pieces(self, values: Array) -> Iterator[Piece]:
        return self.source.pieces(np.take(values, np.argsort(self.order), self.axis))


@dataclass(frozen=True, slots=True)
class Affine(Source):
    """The values times a factor, plus a number; in float32, then rounded.

    What is stored is not rounded before: a norm's 1 + scale has less of the scale in
    16 bits than the scale alone.
    """

    source: Source
    factor: float = 1.0
    plus: float = 0.0

    def names(self) -> Iterator[str]:
        return self.source.names()

    def shape(self, reader: Reader) -> Shape:
        return self.source.shape(reader)

    def read(self, reader: Reader) -> Array:
        wide = self.source.read(_Wide(reader)) * np.float32(self.factor)
        try:
            with np.errstate(over="raise"):
                return (wide + np.float32(self.plus)).astype(reader.dtype)
        except FloatingPointError as error:
            raise CheckpointError(
                f"{next(self.names())} has values too large for "
                f"{np.dtype(reader.dtype)}; load it as bfloat16"
            ) from error

    def pieces(self, values: Array) -> Iterator[Piece]:
        wide = values.astype(np.float32) - np.float32(self.plus)
        return self.source.pieces((wide / np.float32(self.factor)).astype(values.dtype))


def assemble(pieces: Iterable[Piece]) -> dict[str, Array]:
    """Returns whole tensors of their pieces, by name.

    Raises:
      ValueError: pieces of one tensor leave a hole, overlap or lie on two axes.
    """
    found: dict[str, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.name, []).append(piece)
    return {name: _joined(name, parts) for name, parts in found.items()}


def _joined(name: str, parts: list[Piece]) -> Array:
    axis = parts[0].axis
    if axis is None and len(parts) == 1:
        return parts[0].values
    if axis is None or any(part.axis != axis for part in parts):
        raise ValueError(f"{name}: its pieces do not fit together")
    parts = sorted(parts, key=lambda part: part.start)
    end = 0
    for part in parts:
        if part.start != end:
            raise ValueError(f"{name}: its pieces leave a hole or overlap at {end}")
        end += part.values.shape[axis]
    return np.concatenate([part.values for part in parts], axis)


def shape_of(pieces: Iterable[Piece]) -> Shape:
    """Returns the shape of the tensor that these pieces make."""
    pieces = list(pieces)
    first = pieces[0]
    if first.axis is None:
        return first.values.shape
    total = sum(piece.values.shape[first.axis] for piece in pieces)
    return _changed(first.values.shape, first.axis, total)


def _changed(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _all_names(sources: Iterable[Source]) -> Iterator[str]:
    for one in sources:
        yield from one.names()

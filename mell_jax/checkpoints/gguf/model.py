"""Reads a GGUF file, or the parts of one that was split, as one model.

What it says is put into the words of `config.json` and read by the family from there:
the rules, defaults and refusals are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.gguf.blocks import BlockFormat, block_format
from mell_jax.model_files.gguf_file import GgufError, GgufHead, GgufTensor, read_head
from mell_jax.model_files.gguf_path import find_gguf, split_paths

SPLIT_COUNT = "split.count"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTensor:
    """A packed tensor lies in a file, row by row, in blocks of a format."""

    tensor: GgufTensor
    format: BlockFormat

    def __str__(self) -> str:
        return str(self.tensor)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) // self.format.values * self.format.size_bytes

    def rows(self, wanted: slice) -> "PackedTensor":
        """Returns some entries of the first axis, as if they were stored alone."""
        start, stop, _ = wanted.indices(self.shape[0])
        row_bytes = self.size_bytes // self.shape[0]
        part = replace(
            self.tensor,
            shape=(stop - start, *self.shape[1:]),
            start_byte=self.tensor.start_byte + start * row_bytes,
        )
        return replace(self, tensor=part)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """The model is what all parts say together."""

    head: GgufHead  # of the first part, which says what the model is
    tensors: Mapping[str, PackedTensor]

    @property
    def path(self) -> Path:
        return self.head.path


def gguf_in(model: Path) -> Path | None:
    """Returns the GGUF file that a path means, None where it means something else.

    Raises:
      CheckpointError: a directory has several and no other weights.
    """
    try:
        return find_gguf(model)
    except GgufError as error:
        raise CheckpointError(str(error)) from error


def open_gguf(path: Path) -> GgufModel:
    """Returns the model in `path`, all sizes checked against those of its files.

    Raises:
      CheckpointError: a file is missing, damaged or truncated, or packed in a way that
        is not known.
    """
    heads = _read_heads(path)
    tensors: dict[str, PackedTensor] = {}
    formats: dict[int, BlockFormat] = {}
    for head in heads:
        for name, tensor in head.tensors.items():
            if name in tensors:
                other = tensors[name].tensor.path
                raise CheckpointError(f"{tensor} is also in {other}")
            number = tensor.type_number
            if number not in formats:
                formats[number] = block_format(number, where=str(tensor))
            tensors[name] = _checked(tensor, formats[number])
        _check_layout(head, [tensors[name] for name in head.tensors])
    return GgufModel(head=heads[0], tensors=tensors)


def _read_heads(path: Path) -> list[GgufHead]:
    try:
        heads = [read_head(part) for part in split_paths(path)]
    except GgufError as error:
        raise CheckpointError(str(error)) from error
    count = heads[0].metadata.get(SPLIT_COUNT, 1)
    if count not in (0, len(heads)):
        raise CheckpointError(
            f"{path}: {SPLIT_COUNT} is {count!r:.20}, but its name counts "
            f"{len(heads)}; give the parts their names back (NAME-00001-of-00003.gguf)"
        )
    return heads


def _checked(tensor: GgufTensor, kind: BlockFormat) -> PackedTensor:
    columns = tensor.shape[-1] if tensor.shape else 1
    if columns % kind.values:
        raise CheckpointError(
            f"{tensor} has rows of {columns} values, but {kind.name} packs "
            f"{kind.values} at a time"
        )
    return PackedTensor(tensor=tensor, format=kind)


def _check_layout(head: GgufHead, tensors: list[PackedTensor]) -> None:
    """Refuses overlaps, and what lies past the end of the file."""
    end = 0
    for packed in sorted(tensors, key=lambda one: one.tensor.start_byte):
        start = packed.tensor.start_byte
        if start < end:
            raise CheckpointError(f"{packed} overlaps the tensor before it")
        end = start + packed.size_bytes
        if end > head.size_bytes:
            raise CheckpointError(
                f"{packed} ends at byte {end}, but the file has {head.size_bytes}: "
                "truncated; download it again"
            )

"""Reads safetensors files by offset: nothing is trusted, mapped or read ahead.

    8 bytes     length of the header, little endian
    header      JSON: name -> {dtype, shape, data_offsets}
    data        the tensors, back to back

The header is checked against the size of the file before anything is allocated. Reads
go straight into the array that is handed out, so that only one tensor is in memory.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.json_file import Fields, parse_object

MAX_HEADER_BYTES = 16 << 20
"""The format allows 100 MB; the largest model we accept needs 3 MB."""
MAX_RANK = 8
CHUNK_BYTES = 4 << 20
"""What a cast reads at once."""
MAPPED_BYTES = 1 << 20
"""From this size on, an array gets memory pages of its own."""

ITEM_BYTES: dict[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
WEIGHT_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A stored tensor lies somewhere in a file; this says where and what it is."""

    path: Path
    name: str
    dtype_name: str  # the format's word: "BF16"
    shape: tuple[int, ...]
    start_byte: int  # from the beginning of the file
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.path}: tensor {self.name[:100]!r}"

    def rows(self, wanted: slice) -> "StoredTensor":
        """Returns some entries of the first axis, as if they were stored alone."""
        start, stop, _ = wanted.indices(self.shape[0])
        row_bytes = self.size_bytes // self.shape[0]
        return replace(
            self,
            shape=(stop - start, *self.shape[1:]),
            start_byte=self.start_byte + start * row_bytes,
            size_bytes=(stop - start) * row_bytes,
        )


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Returns the tensors of the safetensors file `path` by name, all offsets checked.

    Raises:
      CheckpointError: when the file is not a whole and consistent safetensors file.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            header_bytes = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or 8 + header_bytes > file_bytes:
                raise CheckpointError(
                    f"{path}: truncated, or no safetensors file: it has {file_bytes} "
                    f"bytes, its first 8 announce a header of {header_bytes}"
                )
            if header_bytes > MAX_HEADER_BYTES:
                raise CheckpointError(
                    f"{path}: a header of {header_bytes} bytes is larger than the "
                    f"{MAX_HEADER_BYTES} allowed"
                )
            text = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    entries = parse_object(text, where=f"{path}: header")
    entries.pop("__metadata__", None)
    header = Fields(entries, f"{path}: header")
    data_start = 8 + header_bytes
    tensors = [_tensor(path, header, name, data_start) for name in entries]
    _check_layout(path, tensors, start=data_start, end=file_bytes)
    return {tensor.name: tensor for tensor in tensors}


def read_tensor(
    tensor: StoredTensor, *, dtype: npt.DTypeLike | None = None
) -> npt.NDArray[Any]:
    """Returns the values of `tensor`, cast to `dtype`, in host memory of their own.

    A cast goes piece by piece: it needs `CHUNK_BYTES` besides the result.

    Raises:
      CheckpointError: when the file has become shorter, when it holds no weights (an
        integer or 8-bit type), or when a value does not fit into `dtype`.
    """
    stored = WEIGHT_DTYPES.get(tensor.dtype_name)
    if stored is None:
        raise CheckpointError(
            f"{tensor} has the dtype {tensor.dtype_name}; weights must be one of "
            f"{', '.join(WEIGHT_DTYPES)}"
        )
    wanted = stored if dtype is None else np.dtype(dtype)
    out = allocate(prod(tensor.shape), wanted)
    if wanted == stored:
        for _ in _pieces(tensor, out):
            pass
        return out.reshape(tensor.shape)
    buffer = np.empty(min(out.size, CHUNK_BYTES // stored.itemsize), stored)
    done = 0
    for piece in _pieces(tensor, buffer):
        _cast(piece, out[done : done + piece.size], tensor)
        done += piece.size
    return out.reshape(tensor.shape)


def allocate(size: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Returns an array of `size` values that goes back to the system when dropped.

    Large ones have pages of their own: between parameters that stay, a heap would keep
    the gaps that dropped arrays leave.
    """
    size_bytes = size * dtype.itemsize
    if size_bytes < MAPPED_BYTES:
        return np.empty(size, dtype)
    return np.frombuffer(mmap.mmap(-1, size_bytes), dtype)


def _pieces(
    tensor: StoredTensor, buffer: npt.NDArray[Any]
) -> Iterator[npt.NDArray[Any]]:
    """Fills `buffer` again and again until `tensor` is through, yields each filling."""
    left = tensor.size_bytes
    try:
        with tensor.path.open("rb", buffering=0) as file:
            file.seek(tensor.start_byte)
            while left:
                piece = buffer[: left // buffer.itemsize]
                view = piece.view(np.uint8).data
                while view.nbytes:
                    count = file.readinto(view)
                    if not count:
                        raise CheckpointError(f"{tensor}: the file ends inside it")
                    view = view[count:]
                left -= piece.nbytes
                yield piece
    except OSError as error:
        raise CheckpointError(f"{tensor} cannot be read: {error}") from error


def _cast(
    source: npt.NDArray[Any], target: npt.NDArray[Any], tensor: StoredTensor
) -> None:
    if target.dtype == np.float16:  # the one type with a smaller range
        source = source.astype(np.float32)
    try:
        with np.errstate(over="raise"):
            np.copyto(target, source, casting="unsafe")
    except FloatingPointError as error:
        raise CheckpointError(
            f"{tensor} has values too large for {target.dtype}; load it as bfloat16"
        ) from error


def _tensor(path: Path, header: Fields, name: str, data_start: int) -> StoredTensor:
    entry = header.section(name)
    dtype_name = entry.text("dtype")
    if dtype_name not in ITEM_BYTES:
        entry.fail("dtype", f"{dtype_name[:20]!r} is unknown")
    shape = entry.integers("shape")
    if len(shape) > MAX_RANK or not all(0 <= size < 1 << 48 for size in shape):
        entry.fail("shape", f"is out of range: {str(list(shape)[:MAX_RANK])[:100]}")
    offsets = entry.integers("data_offsets")
    if len(offsets) != 2 or not (0 <= offsets[0] <= offsets[1] < 1 << 62):
        entry.fail("data_offsets", "must be two positions, the first before the second")
    size_bytes = prod(shape) * ITEM_BYTES[dtype_name]
    if offsets[1] - offsets[0] != size_bytes:
        entry.fail(
            "data_offsets",
            f"{list(offsets)} span {offsets[1] - offsets[0]} bytes, but "
            f"{dtype_name} {list(shape)} needs {size_bytes}",
        )
    return StoredTensor(
        path=path,
        name=name,
        dtype_name=dtype_name,
        shape=shape,
        start_byte=data_start + offsets[0],
        size_bytes=size_bytes,
    )


def _check_layout(
    path: Path, tensors: list[StoredTensor], *, start: int, end: int
) -> None:
    """Refuses overlaps, holes and anything past the end of the file."""
    position = start
    for tensor in sorted(tensors, key=lambda t: (t.start_byte, t.size_bytes)):
        if tensor.start_byte != position:
            what = "overlaps" if tensor.start_byte < position else "leaves a hole after"
            raise CheckpointError(f"{tensor} {what} the tensor before it")
        position += tensor.size_bytes
    if position != end:
        raise CheckpointError(
            f"{path}: truncated or damaged: its header describes {position} bytes, "
            f"the file has {end}"
        )

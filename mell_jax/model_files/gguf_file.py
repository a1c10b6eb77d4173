"""Reads the head of a GGUF file: what it says of a model, and where its tensors lie.

    "GGUF", version, counts
    key, type, value       "llama.block_count", uint32, 30
    name, sizes, type, offset
    data                   the tensors, aligned

Nothing is trusted, mapped or read ahead. The package `gguf` has a reader too, which
believes every count and takes seconds for a vocabulary; of it only the formats of
quantised blocks are used (`checkpoints/gguf/blocks.py`).
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, NoReturn, final

Scalar = bool | int | float | str
Value = Scalar | list[Scalar]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_METADATA_BYTES = 256 << 20
MAX_TEXT_BYTES = 4 << 20
MAX_KEYS = 1 << 16
MAX_ITEMS = 1 << 22
"""Entries of one array; the largest vocabulary has a sixteenth of it."""
MAX_TENSORS = 1 << 16
MAX_RANK = 4
MAX_VALUES = 1 << 48
MAX_ALIGNMENT = 1 << 16
DEFAULT_ALIGNMENT = 32

_TEXT, _ARRAY, _BOOL = 8, 9, 7
_FORMATS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", _BOOL: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip


class GgufError(ValueError):
    """A GGUF file cannot be used; the message says which one and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """A tensor lies somewhere in a file; this says where and how it is packed."""

    path: Path
    name: str
    shape: tuple[int, ...]  # rows first, as everywhere but in the file
    type_number: int  # ggml's number of a block format
    start_byte: int  # from the beginning of the file

    def __str__(self) -> str:
        return f"{self.path}: tensor {self.name[:100]!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHead:
    """The head is all of a file but the data of its tensors."""

    path: Path
    size_bytes: int  # of the file
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]


def read_head(path: Path) -> GgufHead:
    """Returns the head of the GGUF file `path`.

    Raises:
      GgufError: it is not the head of a whole GGUF file, or larger than allowed.
    """
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            return _read_head(_Cursor(file, path=path), size_bytes=size_bytes)
    except OSError as error:
        raise GgufError(f"{path}: cannot be read: {error}") from error


def _read_head(cursor: "_Cursor", *, size_bytes: int) -> GgufHead:
    path = cursor.path
    magic = cursor.take(4, "its first word")
    if magic != MAGIC:
        cursor.fail(f"no GGUF file: it begins with {magic!r}, not with {MAGIC!r}")
    version = cursor.number("<I", "its version")
    if version not in VERSIONS:
        big = int(version).to_bytes(4, "little")
        hint = " (of a big-endian machine)" if big[:2] == b"\0\0" else ""
        cursor.fail(
            f"GGUF version {version}{hint} is not read, only 2 and 3 are; convert the "
            "model again"
        )
    num_tensors = cursor.count("tensors", most=MAX_TENSORS)
    num_keys = cursor.count("keys", most=MAX_KEYS)
    metadata: dict[str, Value] = {}
    for _ in range(num_keys):
        key = cursor.text("the name of a key")
        if key in metadata:
            cursor.fail(f"the key {key[:80]!r} occurs twice")
        metadata[key] = cursor.value(key)
    tensors: dict[str, GgufTensor] = {}
    for _ in range(num_tensors):
        tensor = cursor.tensor()
        if tensor.name in tensors:
            cursor.fail(f"the tensor {tensor.name[:80]!r} occurs twice")
        tensors[tensor.name] = tensor
    alignment = _alignment(metadata, cursor)
    start = -(-cursor.position // alignment) * alignment
    return GgufHead(
        path=path,
        size_bytes=size_bytes,
        metadata=metadata,
        tensors={
            name: _placed(tensor, start=start, alignment=alignment)
            for name, tensor in tensors.items()
        },
    )


def _alignment(metadata: Mapping[str, Value], cursor: "_Cursor") -> int:
    found = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    is_fit = type(found) is int and 1 <= found <= MAX_ALIGNMENT
    if not is_fit or found & (found - 1):  # type: ignore[operator]
        cursor.fail(f"general.alignment must be a power of two, found {found!r:.60}")
    return int(found)  # type: ignore[arg-type]


def _placed(tensor: GgufTensor, *, start: int, alignment: int) -> GgufTensor:
    """The tensor with its place in the file, not in the data."""
    if tensor.start_byte % alignment:
        raise GgufError(
            f"{tensor} begins at byte {tensor.start_byte} of the data, no multiple of "
            f"{alignment}"
        )
    return GgufTensor(
        path=tensor.path,
        name=tensor.name,
        shape=tensor.shape,
        type_number=tensor.type_number,
        start_byte=start + tensor.start_byte,
    )


@final
class _Cursor:
    """Reads a file from its beginning on, within bounds."""

    def __init__(self, file: BinaryIO, *, path: Path) -> None:
        self._file = file
        self.path = path
        self.position = 0

    def fail(self, rule: str) -> NoReturn:
        raise GgufError(f"{self.path}: {rule}")

    def take(self, size: int, what: str) -> bytes:
        self.position += size
        if self.position > MAX_METADATA_BYTES:
            self.fail(f"its head is larger than the {MAX_METADATA_BYTES} bytes allowed")
        data = self._file.read(size)
        if len(data) < size:
            self.fail(
                f"truncated: the file ends inside {what[:120]}; download it again"
            )
        return data

    def number(self, form: str, what: str) -> bool | int | float:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form), what))
        return value  # type: ignore[no-any-return]

    def count(self, what: str, *, most: int) -> int:
        found = int(self.number("<Q", f"the number of {what}"))
        if found > most:
            self.fail(f"{found} {what} are more than the {most} allowed")
        return found

    def text(self, what: str) -> str:
        data = self.take(self.count(f"bytes of {what}", most=MAX_TEXT_BYTES), what)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"{what[:120]} is not UTF-8: {error}")

    def value(self, key: str) -> Value:
        kind = int(self.number("<I", f"the type of {key!r}"))
        if kind != _ARRAY:
            return self._scalar(kind, key)
        kind = int(self.number("<I", f"the type of {key!r}"))
        count = self.count(f"entries of {key!r}", most=MAX_ITEMS)
        if kind == _TEXT:
            return self._texts(count, key)
        if kind not in _FORMATS:
            self.fail(f"{key[:80]!r} is an array of an unknown type, {kind}")
        form = f"<{count}{_FORMATS[kind][1]}"
        return list(struct.unpack(form, self.take(struct.calcsize(form), repr(key))))

    def _scalar(self, kind: int, key: str) -> Scalar:
        if kind == _TEXT:
            return self.text(f"the value of {key!r}")
        if kind not in _FORMATS:
            self.fail(f"{key[:80]!r} has an unknown type, {kind}")
        return self.number(_FORMATS[kind], f"the value of {key!r}")

    def _texts(self, count: int, key: str) -> list[Scalar]:
        """Like `text`, in a loop that hundreds of thousands of tokens go through."""
        read, found = self._file.read, list[Scalar]()
        for number in range(count):
            data = read(8)
            size = int.from_bytes(data, "little")
            if len(data) < 8 or size > MAX_TEXT_BYTES:
                self.fail(f"entry {number} of {key[:80]!r} is truncated or too long")
            self.position += 8 + size
            if self.position > MAX_METADATA_BYTES:
                self.take(0, key)
            data = read(size)
            if len(data) < size:
                self.fail(f"truncated: the file ends inside {key[:80]!r}")
            try:
                found.append(data.decode("utf-8"))
            except UnicodeDecodeError as error:
                self.fail(f"entry {number} of {key[:80]!r} is not UTF-8: {error}")
        return found

    def tensor(self) -> GgufTensor:
        """The next entry; its place counts from the beginning of the data."""
        name = self.text("the name of a tensor")
        rank = int(self.number("<I", f"tensor {name!r}"))
        if rank > MAX_RANK:
            self.fail(f"tensor {name[:80]!r} has {rank} dimensions, {MAX_RANK} at most")
        form = f"<{rank}Q"
        data = self.take(struct.calcsize(form), f"tensor {name!r}")
        shape = struct.unpack(form, data)[::-1]
        if not (0 < prod(shape) < MAX_VALUES):
            self.fail(f"tensor {name[:80]!r} has the shape {list(shape)}")
        type_number = int(self.number("<I", f"tensor {name!r}"))
        start = int(self.number("<Q", f"tensor {name!r}"))
        if start >= MAX_VALUES:
            self.fail(f"tensor {name[:80]!r} begins at byte {start}")
        return GgufTensor(
            path=self.path,
            name=name,
            shape=tuple(shape),
            type_number=type_number,
            start_byte=start,
        )

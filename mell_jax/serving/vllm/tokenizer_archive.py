"""`GetTokenizer` sends a model's tokenizer files as one zip; its callers unpack it."""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from smg_grpc_proto.generated import common_pb2

from mell_jax.model_files.folder import open_folder

_CHUNK_BYTES = 64 * 1024
_NAMES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "config.json",
    "generation_config.json",
    "chat_template.json",
    "chat_template.jinja",
)
_ANY_TIME = (1980, 1, 1, 0, 0, 0)  # the same files make the same bytes


def pack(model: Path) -> bytes:
    """Returns the zip of the tokenizer files of a model, a directory or a GGUF file.

    Raises:
      OSError: a file cannot be read.
    """
    archive, directory = io.BytesIO(), open_folder(model)
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in _NAMES:
            path = directory / name
            if path.is_file():
                entry = zipfile.ZipInfo(name, date_time=_ANY_TIME)
                entry.compress_type = zipfile.ZIP_DEFLATED
                zipped.writestr(entry, path.read_bytes())
    return archive.getvalue()


def chunks_of(archive: bytes) -> Iterator[common_pb2.GetTokenizerChunk]:
    """Yields the archive in pieces; the last one carries the SHA-256 of it all."""
    for start in range(0, len(archive), _CHUNK_BYTES):
        end = start + _CHUNK_BYTES
        is_last = end >= len(archive)
        digest = hashlib.sha256(archive).hexdigest() if is_last else ""
        yield common_pb2.GetTokenizerChunk(data=archive[start:end], sha256=digest)


def unpack(
    chunks: Iterable[common_pb2.GetTokenizerChunk],
    *,
    directory: Path,
    max_bytes: int = 256 * 1024 * 1024,
) -> None:
    """Writes the files of a received archive into a directory.

    Only known file names are written, whatever else the archive holds.

    Raises:
      ValueError: the archive is damaged, has more than `max_bytes` before or after
        decompression, or is not what its digest says.
    """
    received = bytearray()
    digest = ""
    for chunk in chunks:
        received += chunk.data
        digest = chunk.sha256
        _check_size(len(received), max_bytes=max_bytes)
    if hashlib.sha256(received).hexdigest() != digest:
        raise ValueError("the tokenizer arrived damaged: its SHA-256 does not match")
    try:
        with zipfile.ZipFile(io.BytesIO(received)) as zipped:
            entries = [entry for entry in zipped.infolist() if entry.filename in _NAMES]
            size_bytes = sum(entry.file_size for entry in entries)
            _check_size(size_bytes, max_bytes=max_bytes)
            for entry in entries:
                (directory / entry.filename).write_bytes(zipped.read(entry))
    except zipfile.BadZipFile as error:
        raise ValueError(f"the tokenizer arrived damaged: {error}") from error


def _check_size(size_bytes: int, *, max_bytes: int) -> None:
    if not (size_bytes <= max_bytes):
        raise ValueError(
            f"the tokenizer has {size_bytes} bytes, more than {max_bytes}; refused"
        )

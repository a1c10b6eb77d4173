"""A checkpoint's fingerprint tells two checkpoints apart, and is the same everywhere.

It is a digest of names, sizes and samples of the files, not of dates or places: a copy
on another machine has the same, and a second training of the same shapes another one.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_WHOLE_BYTES = 1 << 20  # of a file that is read as a whole
_NUM_SAMPLES = 256  # of a larger one, from its first byte to its last
_SAMPLE_BYTES = 1024
_MAX_FILES = 10_000
_NO_WEIGHTS = (".md", ".txt", ".png", ".lock", ".py")


def fingerprint_of(model: Path) -> str:
    """Returns 12 hexadecimal digits.

    Args:
      model: a directory, or a single file.

    Raises:
      OSError: a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=6, person=b"mell weights")
    for name, path in _files_of(model):
        size = path.stat().st_size
        digest.update(f"{len(name)}:{name}:{size}:".encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            _add_samples(file, size=size, digest=digest)
    return digest.hexdigest()


def _files_of(model: Path) -> Iterator[tuple[str, Path]]:
    """The files that may hold weights or say what they are, with their names."""
    if model.is_file():
        yield model.name, model
        return
    found = []
    for folder, folders, names in os.walk(model):
        folders[:] = [each for each in folders if not each.startswith(".")]
        paths = [Path(folder, each) for each in names if not each.startswith(".")]
        found += [
            path
            for path in paths
            if path.suffix not in _NO_WEIGHTS and path.is_file()  # no dangling link
        ]
    named = {path.relative_to(model).as_posix(): path for path in found}
    for name in sorted(named)[:_MAX_FILES]:
        yield name, named[name]


def _add_samples(file: BinaryIO, *, size: int, digest: hashlib.blake2b) -> None:
    if size <= _WHOLE_BYTES:
        digest.update(file.read(_WHOLE_BYTES))
        return
    last = size - _SAMPLE_BYTES
    for number in range(_NUM_SAMPLES):
        file.seek(last * number // (_NUM_SAMPLES - 1))
        digest.update(file.read(_SAMPLE_BYTES))

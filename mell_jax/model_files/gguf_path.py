"""Finds the GGUF file that a path means, and the rest of one that was split.

models/llama.gguf
models/llama/                     with one GGUF file and no other weights
models/llama-00001-of-00003.gguf  the first of three
"""

import re
from pathlib import Path

from mell_jax.model_files.gguf_file import GgufError

SUFFIX = ".gguf"
MAGIC = b"GGUF"
_OTHER_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "orbax")
_PROJECTOR = "mmproj"  # the part of a model that sees; it lies beside the decoder
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def list_gguf(directory: Path) -> list[Path]:
    """Returns the models in a directory that has no other weights: of split files the
    first.
    """
    if any(True for mark in _OTHER_WEIGHTS for _ in directory.glob(mark)):
        return []
    return [
        path
        for path in sorted(directory.glob(f"*{SUFFIX}"))
        if not path.name.startswith(_PROJECTOR) and _number(path) == 1
    ]


def find_gguf(model: Path) -> Path | None:
    """Returns the GGUF file that `model` is or has, None where it is something else.

    Raises:
      GgufError: a directory has several and no other weights.
    """
    if model.is_dir():
        found = list_gguf(model)
        if len(found) > 1:
            names = ", ".join(path.name[:80] for path in found[:5])
            raise GgufError(
                f"{model}: several GGUF files, {names}; give the path of the one to use"
            )
        return found[0] if found else None
    return model if model.is_file() and _is_gguf(model) else None


def _is_gguf(path: Path) -> bool:
    """Tells it by its name or, where it has another, by its first word."""
    if path.suffix == SUFFIX:
        return True
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def split_paths(path: Path) -> list[Path]:
    """Returns the files of a model whose first one is `path`.

    Raises:
      GgufError: `path` is another one of them, or one is not there.
    """
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    stem, count = match["stem"], match["count"]
    paths = [
        path.with_name(f"{stem}-{number:05d}-of-{count}{SUFFIX}")
        for number in range(1, int(count) + 1)
    ]
    if int(match["number"]) != 1:
        raise GgufError(f"{path}: a later part of a split model; give {paths[0].name}")
    for part in paths:
        if not part.is_file():
            raise GgufError(f"{part}: no such file, but {path.name} counts it")
    return paths


def model_name(path: Path) -> str:
    """Returns the name of a file without what makes it GGUF or a part of a model."""
    match = _SPLIT.fullmatch(path.name)
    return match["stem"] if match else path.name.removesuffix(SUFFIX)


def _number(path: Path) -> int:
    match = _SPLIT.fullmatch(path.name)
    return int(match["number"]) if match else 1

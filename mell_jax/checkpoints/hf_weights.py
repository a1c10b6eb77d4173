"""Finds what each parameter of a `Decoder` is made of in a Hugging Face directory.

`find_weights` matches names and shapes of the whole model before a byte of it is read.
Which tensors make a parameter is told by the model's family (`families`).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.abstract import AbstractDecoder
from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.families.family import ParameterPath, Sources
from mell_jax.checkpoints.json_file import Fields, read_object, shown
from mell_jax.checkpoints.safetensors_file import (
    CHUNK_BYTES,
    ITEM_BYTES,
    WEIGHT_DTYPES,
    StoredTensor,
    read_header,
    read_tensor,
)
from mell_jax.checkpoints.sources import Shape, Source, Take, Transpose

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

EMBEDDING = "embed_tokens.weight"
HEAD = "lm_head.weight"
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)
"""Constants that old files carry and that we compute."""


PREFIXES = ("model.", "language_model.model.", "model.language_model.", "")
"""What stands before the names of a decoder: alone, in models that see, or cut out."""
SIGHT = (
    *("vision_tower.", "vision_model.", "visual.", "vision_embed_tokens."),
    *("multi_modal_projector.", "audio_tower.", "embed_vision.", "embed_audio."),
)
"""What stands before the names of parts that see or hear; they are not loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight joins a parameter and the stored tensors that it is made of."""

    path: ParameterPath
    source: Source
    size_bytes: int  # as stored


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """The tensors of a directory, read in one precision; a `Reader` of sources.

    They answer to the names that a decoder alone has, whatever stands before them.
    """

    directory: Path
    tensors: Mapping[str, StoredTensor]
    prefix: str
    dtype: npt.DTypeLike

    @classmethod
    def find(cls, directory: Path, *, dtype: npt.DTypeLike) -> Self:
        """Returns those of one safetensors file, or of an index of several.

        Raises:
          CheckpointError: a file is missing or damaged.
        """
        tensors = stored_tensors(directory)
        found = [p for p in PREFIXES if f"{p}{EMBEDDING}" in tensors]
        prefix = found[0] if found else PREFIXES[0]
        return cls(directory=directory, tensors=tensors, prefix=prefix, dtype=dtype)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensor(name).shape

    def read(self, name: str, *, rows: slice | None = None) -> npt.NDArray[Any]:
        tensor = self.tensor(name)
        return read_tensor(
            tensor if rows is None else tensor.rows(rows), dtype=self.dtype
        )

    def position(self, source: Source) -> tuple[Path, int]:
        """Returns where the first tensor of a source lies."""
        first = self.tensor(next(source.names()))
        return first.path, first.start_byte

    def stored_name(self, name: str) -> str:
        """Returns the directory's own word for a decoder's tensor."""
        if name.startswith(PREFIXES[0]):
            return self.prefix + name.removeprefix(PREFIXES[0])
        inside = f"{self.prefix.removesuffix('model.')}{name}"
        return inside if inside in self.tensors else name

    def unused(self, used: Iterable[str]) -> list[StoredTensor]:
        """Returns the tensors that no decoder's name stands for, but for known ones."""
        known = {self.stored_name(name) for name in used}
        return [
            tensor
            for name, tensor in self.tensors.items()
            if name not in known
            and not name.endswith(IGNORED_SUFFIXES)
            and not name.removeprefix("model.").startswith(SIGHT)
        ]

    def tensor(self, name: str) -> StoredTensor:
        """Returns the tensor that a decoder calls `name`.

        Raises:
          CheckpointError: there is none, or it holds no weights.
        """
        stored = self.stored_name(name)
        if stored not in self.tensors:
            raise CheckpointError(
                f"{self.directory}: tensor {stored!r} is missing; does config.json "
                "belong to these weights?"
            )
        tensor = self.tensors[stored]
        if tensor.dtype_name not in WEIGHT_DTYPES:
            raise CheckpointError(
                f"{tensor} has the dtype {tensor.dtype_name}; weights must be one of "
                f"{', '.join(WEIGHT_DTYPES)}"
            )
        return tensor


def find_weights(
    stored: StoredWeights, model: AbstractDecoder, *, sources: Sources
) -> list[Weight]:
    """Returns what every parameter of `model` is made of, in the order of the files.

    Raises:
      CheckpointError: when a tensor is missing, misshapen or unknown.
    """
    weights = [
        Weight(
            path=path,
            source=_checked(sources[path], path, stored, shape=model.shape(path)),
            size_bytes=_stored_bytes(sources[path], stored, shape=model.shape(path)),
        )
        for path, _ in model.items()
    ]
    used = {name for weight in weights for name in weight.source.names()}
    extra = stored.unused(used)
    if HEAD not in used:
        extra = _without_tied_head(extra, stored)
    if extra:
        names = ", ".join(shown(tensor.name) for tensor in extra[:3])
        raise CheckpointError(
            f"{extra[0].path}: {len(extra)} tensors that this model has no place for: "
            f"{names}; does config.json belong to these weights?"
        )
    return sorted(weights, key=lambda weight: stored.position(weight.source))


def _stored_bytes(source: Source, stored: StoredWeights, *, shape: Shape) -> int:
    first = stored.tensor(next(source.names()))
    return math.prod(shape) * ITEM_BYTES[first.dtype_name]


def _checked(
    source: Source, path: ParameterPath, stored: StoredWeights, *, shape: Shape
) -> Source:
    expected = f"{list(shape)} of {'.'.join(map(str, path))}"
    if isinstance(source, Take):
        expected = str(list(shape))
    elif isinstance(source, Transpose) and isinstance(source.source, Take):
        expected = str(list(shape[::-1]))
    for name in map(stored.stored_name, source.names()):
        if name not in stored.tensors:
            raise CheckpointError(
                f"{stored.directory}: tensor {name!r} of shape {expected} is missing; "
                "does config.json belong to these weights?"
            )
    if source.shape(stored) == shape:
        return source
    tensor = stored.tensor(next(source.names()))
    raise CheckpointError(
        f"{tensor} has the shape {list(tensor.shape)}, but config.json makes it "
        f"{expected}; do they belong together?"
    )


def _without_tied_head(
    extra: list[StoredTensor], stored: StoredWeights
) -> list[StoredTensor]:
    """Leaves out a copy of the embedding that is stored as the head besides.

    Raises:
      CheckpointError: it is no copy, so that the model would be another one.
    """
    head = stored.tensors.get(stored.stored_name(HEAD))
    if head is None:
        return extra
    embedding = stored.tensor(f"{PREFIXES[0]}{EMBEDDING}")
    if not _are_equal(head, embedding):
        raise CheckpointError(
            f"{head} differs from {shown(embedding.name)}, but config.json says "
            "tie_word_embeddings: true; set it to false to serve this head, or take "
            "the tensor out of the file"
        )
    return [tensor for tensor in extra if tensor is not head]


def _are_equal(one: StoredTensor, other: StoredTensor) -> bool:
    if (one.shape, one.dtype_name) != (other.shape, other.dtype_name):
        return False
    step = max(one.shape[0] * CHUNK_BYTES // max(one.size_bytes, 1), 1)  # rows
    parts = [slice(at, at + step) for at in range(0, one.shape[0], step)]
    return all(
        np.array_equal(
            read_tensor(one.rows(part)).view(np.uint8),
            read_tensor(other.rows(part)).view(np.uint8),
        )
        for part in parts
    )


def has_safetensors(directory: Path) -> bool:
    """Tells whether `directory` holds weights that `find_weights` would look into."""
    return any((directory / name).exists() for name in (INDEX_FILE, SINGLE_FILE))


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Returns all tensors of a directory with one safetensors file or an index of
    several.
    """
    index = directory / INDEX_FILE
    if not index.exists():
        if not (directory / SINGLE_FILE).exists():
            raise CheckpointError(_no_weights(directory))
        return read_header(directory / SINGLE_FILE)
    fields = Fields(read_object(index, max_bytes=MAX_INDEX_BYTES), str(index))
    weight_map = fields.section("weight_map")
    shards = {name: weight_map.text(name) for name in weight_map.values}
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(shards.values())):
        for name, tensor in read_header(_shard_path(directory, shard)).items():
            if name in tensors:
                raise CheckpointError(f"{tensor} is also in {tensors[name].path}")
            tensors[name] = tensor
    for name, shard in shards.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise CheckpointError(
                f"{index}: tensor {name[:80]!r} is not in {shard!r} as it says; "
                "download the missing or changed file again"
            )
    return tensors


def _shard_path(directory: Path, shard: str) -> Path:
    is_plain = shard.isprintable() and not set(shard) & set("/\\:")
    if not is_plain or shard.startswith(".") or not shard.endswith(".safetensors"):
        raise CheckpointError(
            f"{directory / INDEX_FILE}: {shard[:80]!r} is not the plain name of a "
            ".safetensors file"
        )
    path = directory / shard
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such file, but {INDEX_FILE} names it; download it again"
        )
    return path


def _no_weights(directory: Path) -> str:
    found = sorted(path.name for path in directory.iterdir())
    if any(name.endswith(PICKLE_SUFFIXES) for name in found):
        return (
            f"{directory}: only pickled weights, which can run code and are never "
            "read; convert them to safetensors (in transformers: "
            "model.save_pretrained(directory, safe_serialization=True))"
        )
    return (
        f"{directory}: no weights: expected {SINGLE_FILE}, {INDEX_FILE} or a folder "
        f"orbax; found {', '.join(map(shown, found[:10])) or 'nothing'}"
    )

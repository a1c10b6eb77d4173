"""Finds what each parameter of a `Decoder` is made of in a Hugging Face directory.

`find_weights` matches names and shapes of the whole model before a byte of it is read.
Which tensors make a parameter is told by the model's family (`families`).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from absl import logging

from mell_jax.checkpoints.abstract import AbstractDecoder
from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.families.family import (
    ParameterPath,
    Sources,
    Weight,
    left_over,
)
from mell_jax.checkpoints.folder_kind import explain_folder, list_names
from mell_jax.checkpoints.json_file import Fields, read_object, shown
from mell_jax.checkpoints.quantised import Scheme, cost_line, unused_line
from mell_jax.checkpoints.safetensors_file import (
    CHUNK_BYTES,
    StoredTensor,
    read_header,
    read_raw,
)
from mell_jax.checkpoints.sources import Shape, Source, Take, Transpose
from mell_jax.checkpoints.stored_weights import EMBEDDING, HEAD, StoredWeights

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20


def open_weights(
    directory: Path, *, dtype: npt.DTypeLike, scheme: Scheme | None = None
) -> StoredWeights:
    """Returns the weights of one safetensors file, or of an index of several.

    Raises:
      CheckpointError: a file is missing or damaged, or it is not told how they are
        quantised.
    """
    return StoredWeights.of_tensors(
        stored_tensors(directory), directory=directory, dtype=dtype, scheme=scheme
    )


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
            size_bytes=stored.size_bytes(sources[path], shape=model.shape(path)),
        )
        for path, _ in model.items()
    ]
    for name, values in left_over(weights, stored).items():
        raise CheckpointError(
            f"{stored.directory}: tensor {shown(stored.stored_name(name))!r} has the "
            f"shape {list(stored.shape(name))}, but config.json has use for {values} "
            "of its values; do they belong together?"
        )
    used = {name for weight in weights for name in weight.source.names()}
    extra, needless = stored.unused(used)
    if HEAD not in used:
        extra = _without_tied_head(extra, stored)
    if extra:
        names = ", ".join(shown(tensor.name) for tensor in extra[:3])
        raise CheckpointError(
            f"{extra[0].path}: {len(extra)} tensors that this model has no place for: "
            f"{names}; does config.json belong to these weights?"
        )
    _tell(stored, used, needless)
    return sorted(weights, key=lambda weight: stored.position(weight.source))


def _tell(stored: StoredWeights, used: Iterable[str], needless: list[str]) -> None:
    """Says what dequantising costs, and what was left out."""
    if needless:
        logging.info("%s: %s", stored.directory, unused_line(needless))
    if stored.scheme is None:
        return
    stored_bytes, dense_bytes = stored.quantised_bytes(used)
    if stored_bytes:
        line = cost_line(
            stored.scheme.method,
            stored_bytes=stored_bytes,
            dense_bytes=dense_bytes,
            dtype=stored.dtype,
        )
        logging.warning("%s: %s", stored.directory, line)


def _checked(
    source: Source, path: ParameterPath, stored: StoredWeights, *, shape: Shape
) -> Source:
    expected = f"{list(shape)} of {'.'.join(map(str, path))}"
    if isinstance(source, Take):
        expected = str(list(shape))
    elif isinstance(source, Transpose) and isinstance(source.source, Take):
        expected = str(list(shape[::-1]))
    for name in source.names():
        if not stored.has(name):
            raise CheckpointError(
                f"{stored.directory}: tensor {stored.stored_name(name)!r} of shape "
                f"{expected} is missing; does config.json belong to these weights?"
            )
    if source.shape(stored) == shape:
        return source
    name = next(source.names())
    raise CheckpointError(
        f"{stored.directory}: tensor {shown(stored.stored_name(name))!r} has the shape "
        f"{list(stored.shape(name))}, but config.json makes it {expected}; do they "
        "belong together?"
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
    embedding = stored.tensor(EMBEDDING)
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
            read_raw(one.rows(part)).view(np.uint8),
            read_raw(other.rows(part)).view(np.uint8),
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
    kind = explain_folder(directory)
    return f"{directory}: " + (
        kind
        or f"no weights: expected {SINGLE_FILE}, {INDEX_FILE} or a folder orbax; found "
        f"{list_names(directory)}"
    )

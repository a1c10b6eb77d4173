"""Writes a `Decoder` as a model directory that `load_model` reads.

`save_hf` writes what transformers reads as well; `save_orbax` what JAX programs keep.
Neither writes over weights that are already there. A tokenizer is copied by hand.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from mell_jax.checkpoints import orbax
from mell_jax.checkpoints.abstract import parameters_of
from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.families import FAMILIES
from mell_jax.checkpoints.families.family import ParameterPath, Sources
from mell_jax.checkpoints.hf_config import CheckpointSpec
from mell_jax.checkpoints.hf_config_writer import spec_of, write_spec
from mell_jax.checkpoints.hf_weights import (
    SINGLE_FILE,
    has_safetensors,
)
from mell_jax.checkpoints.orbax_layout import ORBAX_FOLDER, find_orbax
from mell_jax.checkpoints.safetensors_file import WEIGHT_DTYPES
from mell_jax.checkpoints.sources import Piece, assemble, shape_of
from mell_jax.models.decoder import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A tensor of a file, and the parameters that it holds."""

    name: str
    shape: tuple[int, ...]
    paths: tuple[ParameterPath, ...]


def save_hf(
    directory: Path,
    *,
    decoder: Decoder,
    eos_ids: Sequence[int] = (),
    bos_id: int | None = None,
) -> None:
    """Writes `config.json`, `generation_config.json` and `model.safetensors`.

    One parameter at a time is in host memory.

    Raises:
      CheckpointError: when the directory has weights already, or when no Hugging Face
        architecture has the options of this decoder.
    """
    spec = _write_config(directory, decoder, eos_ids, bos_id)
    sources = FAMILIES[spec.architecture].weights(decoder.config)
    parameters = parameters_of(nnx.state(decoder, nnx.Param))
    tensors = tensors_of(sources, shapes={p: v.shape for p, v in parameters.items()})
    dtype = decoder.embed.embedding.dtype
    partial = directory / f"{SINGLE_FILE}.partial"
    with partial.open("wb") as file:
        file.write(_safetensors_header(tensors, dtype=dtype))
        for tensor in tensors:
            pieces = [
                piece
                for path in tensor.paths
                for piece in sources[path].pieces(_to_host(parameters[path][...]))
                if piece.name == tensor.name
            ]
            values = np.ascontiguousarray(assemble(pieces)[tensor.name])
            file.write(values.reshape(-1).view(np.uint8).data)
    partial.rename(directory / SINGLE_FILE)


def save_orbax(
    directory: Path,
    *,
    decoder: Decoder,
    eos_ids: Sequence[int] = (),
    bos_id: int | None = None,
) -> None:
    """Writes `config.json`, `generation_config.json` and the folder `orbax/`.

    Raises:
      CheckpointError: as `save_hf` does.
    """
    _write_config(directory, decoder, eos_ids, bos_id)
    tree = nnx.to_pure_dict(nnx.state(decoder, nnx.Param))
    orbax.save(directory / ORBAX_FOLDER, tree)


def _write_config(
    directory: Path, decoder: Decoder, eos_ids: Sequence[int], bos_id: int | None
) -> CheckpointSpec:
    directory.mkdir(parents=True, exist_ok=True)
    has_orbax = (directory / ORBAX_FOLDER).exists() or find_orbax(directory) is not None
    if has_safetensors(directory) or has_orbax:
        raise CheckpointError(
            f"{directory}: has weights already; choose an empty directory"
        )
    spec = spec_of(
        decoder.config,
        eos_ids=eos_ids,
        bos_id=bos_id,
        dtype_name=decoder.embed.embedding[...].dtype.name,
    )
    write_spec(directory, spec)
    return spec


def tensors_of(
    sources: Sources, *, shapes: Mapping[ParameterPath, tuple[int, ...]]
) -> list[Written]:
    """Returns the tensors of which parameters of these shapes are made."""
    paths: dict[str, list[ParameterPath]] = {}
    pieces: dict[str, list[Piece]] = {}
    for path, shape in shapes.items():
        empty = np.broadcast_to(np.zeros((), np.int8), shape)  # takes no memory
        for piece in sources[path].pieces(empty):
            paths.setdefault(piece.name, []).append(path)
            pieces.setdefault(piece.name, []).append(piece)
    return [
        Written(
            name=name,
            shape=shape_of(pieces[name]),
            paths=tuple(dict.fromkeys(paths[name])),
        )
        for name in paths
    ]


def _safetensors_header(tensors: Sequence[Written], *, dtype: np.dtype[Any]) -> bytes:
    """Length and JSON, padded so that the tensors start at a multiple of 8 bytes."""
    names = {dtype: name for name, dtype in WEIGHT_DTYPES.items()}
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        size_bytes = math.prod(tensor.shape) * dtype.itemsize
        entries[tensor.name] = {
            "dtype": names[dtype],
            "shape": tensor.shape,
            "data_offsets": [offset, offset + size_bytes],
        }
        offset += size_bytes
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _to_host(array: jax.Array) -> npt.NDArray[Any]:
    """`array` in host memory, of a copy, since an array keeps what it was turned to."""
    return np.asarray(jnp.copy(array))

"""Writes a `Decoder` as a model directory that `load_model` reads.

`save_hf` writes what transformers reads as well; `save_orbax` what JAX programs keep.
Neither writes over weights that are already there. A tokenizer is copied by hand.
"""

import json
from collections.abc import Mapping, Sequence
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
from mell_jax.checkpoints.hf_config_writer import spec_of, write_spec
from mell_jax.checkpoints.hf_weights import (
    SINGLE_FILE,
    has_safetensors,
    hf_name,
    is_transposed,
)
from mell_jax.checkpoints.orbax_layout import ORBAX_FOLDER, find_orbax
from mell_jax.checkpoints.safetensors_file import WEIGHT_DTYPES
from mell_jax.models.decoder import Decoder


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
    _write_config(directory, decoder, eos_ids, bos_id)
    arrays: dict[str, tuple[jax.Array, bool]] = {
        hf_name(path): (param[...], is_transposed(path))
        for path, param in parameters_of(nnx.state(decoder, nnx.Param)).items()
    }
    partial = directory / f"{SINGLE_FILE}.partial"
    with partial.open("wb") as file:
        file.write(_safetensors_header(arrays))
        for array, transposed in arrays.values():
            values = _to_host(array)
            values = np.ascontiguousarray(values.T if transposed else values)
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
) -> None:
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


def _safetensors_header(arrays: Mapping[str, tuple[jax.Array, bool]]) -> bytes:
    """Length and JSON, padded so that the tensors start at a multiple of 8 bytes."""
    names = {dtype: name for name, dtype in WEIGHT_DTYPES.items()}
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (array, transposed) in arrays.items():
        entries[name] = {
            "dtype": names[array.dtype],
            "shape": array.shape[::-1] if transposed else array.shape,
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _to_host(array: jax.Array) -> npt.NDArray[Any]:
    """`array` in host memory, of a copy, since an array keeps what it was turned to."""
    return np.asarray(jnp.copy(array))

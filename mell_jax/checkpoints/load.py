"""Loads a model onto devices, one parameter at a time.

A directory holds `config.json` and the weights: safetensors as Hugging Face writes
them, or an Orbax checkpoint in `orbax/`. A GGUF file, or a directory with one, has it
all. Nothing is unpickled and no code is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy.typing as npt
from flax import nnx

from mell_jax.checkpoints.abstract import (
    AbstractDecoder,
    abstract_decoder,
)
from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.families import FAMILIES
from mell_jax.checkpoints.families.family import ParameterPath
from mell_jax.checkpoints.gguf import (
    architecture_of,
    find_gguf_weights,
    gguf_in,
    open_gguf,
    read_gguf_spec,
)
from mell_jax.checkpoints.hf_config import CheckpointSpec, read_spec
from mell_jax.checkpoints.hf_weights import (
    StoredWeights,
    Weight,
    find_weights,
    has_safetensors,
)
from mell_jax.checkpoints.orbax import ORBAX_FOLDER, find_saved, restore
from mell_jax.checkpoints.sources import Reader
from mell_jax.events import Event, tell
from mell_jax.models.decoder import Decoder
from mell_jax.progress import Progress

ShardingFor = Callable[[ParameterPath, tuple[int, ...]], jax.sharding.Sharding]
"""Where a parameter of some path and shape goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """The model is on its devices: `nnx.merge(graphdef, state)` is the `Decoder`."""

    spec: CheckpointSpec
    graphdef: nnx.GraphDef[Decoder]
    state: nnx.State[Any, Any]


def load_model(
    path: Path,
    *,
    dtype: npt.DTypeLike,
    sharding_for: ShardingFor,
    progress: bool = False,
) -> LoadedModel:
    """Reads the model in `path`, a directory or a GGUF file, in the precision `dtype`.

    Host memory peaks at one parameter besides what the devices keep, at two where an
    Orbax checkpoint is cast, since its values are not read in pieces. With `progress` a
    bar counts bytes on the standard error stream.

    Raises:
      CheckpointError: when a file is missing, damaged, unsupported or does not match
        `config.json`; found before anything large is allocated.
    """
    if (gguf := gguf_in(path)) is not None:
        return _load_gguf(
            gguf, dtype=dtype, sharding_for=sharding_for, progress=progress
        )
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory")
    spec = read_spec(path)
    model = abstract_decoder(spec.config, dtype=dtype)
    has_orbax = (path / ORBAX_FOLDER).exists()
    if has_orbax and has_safetensors(path):
        raise CheckpointError(
            f"{path}: both safetensors and a folder {ORBAX_FOLDER}; keep the one to use"
        )
    if has_orbax:
        arrays = _read_orbax(
            path, model=model, sharding_for=sharding_for, progress=progress
        )
    else:
        stored = StoredWeights.find(path, dtype=dtype)
        sources = FAMILIES[spec.architecture].weights(spec.config)
        arrays = _read_tensors(
            stored,
            weights=find_weights(stored, model, sources=sources),
            model=model,
            sharding_for=sharding_for,
            progress=progress,
        )
    return LoadedModel(spec=spec, graphdef=model.graphdef, state=model.state(arrays))


def _load_gguf(
    path: Path, *, dtype: npt.DTypeLike, sharding_for: ShardingFor, progress: bool
) -> LoadedModel:
    found = open_gguf(path)
    spec = read_gguf_spec(found)
    model = abstract_decoder(spec.config, dtype=dtype)
    sources = architecture_of(found).sources(spec.config)
    stored, weights = find_gguf_weights(found, model, sources=sources, dtype=dtype)
    tell(Event.PROGRESS, text=stored.cost(weights))
    arrays = _read_tensors(
        stored,
        weights=weights,
        model=model,
        sharding_for=sharding_for,
        progress=progress,
    )
    return LoadedModel(spec=spec, graphdef=model.graphdef, state=model.state(arrays))


def _read_tensors(
    stored: Reader,
    *,
    weights: list[Weight],
    model: AbstractDecoder,
    sharding_for: ShardingFor,
    progress: bool,
) -> dict[ParameterPath, jax.Array]:
    arrays = {}
    with _bar(sum(weight.size_bytes for weight in weights), progress) as bar:
        for weight in weights:
            # Often a view of another order, which the transfer puts right.
            values = weight.source.read(stored)
            sharding = sharding_for(weight.path, model.shape(weight.path))
            # Blocks, so that the host copy is gone before the next one is made.
            arrays[weight.path] = jax.device_put(values, sharding).block_until_ready()
            bar.advance(weight.size_bytes)
            del values
    return arrays


def _read_orbax(
    path: Path, *, model: AbstractDecoder, sharding_for: ShardingFor, progress: bool
) -> dict[ParameterPath, jax.Array]:
    folder = path / ORBAX_FOLDER
    saved = find_saved(folder, model)
    arrays = {}
    with _bar(sum(parameter.size_bytes for parameter in saved), progress) as bar:
        for parameter, array in restore(
            folder,
            saved,
            model=model,
            sharding_of=lambda path: sharding_for(path, model.shape(path)),
        ):
            arrays[parameter.path] = array
            bar.advance(parameter.size_bytes)
    return arrays


def _bar(total_bytes: int, progress: bool) -> Progress:
    return Progress("loading weights", total=total_bytes, unit="B", has_bar=progress)

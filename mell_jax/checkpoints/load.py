"""Loads a model onto devices, one parameter at a time.

A directory holds `config.json` and the weights: safetensors as Hugging Face writes
them, or an Orbax checkpoint (see `orbax_layout`). A `ModelConfig` may take the place
of `config.json`. A GGUF file, or a directory with one, has it all. Nothing is unpickled
and no code is run.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from mell_jax.checkpoints.families.family import ParameterPath, Weight
from mell_jax.checkpoints.folder_kind import explain_path
from mell_jax.checkpoints.foreign_tree import find_tree, refuse_adapters
from mell_jax.checkpoints.gguf import (
    architecture_of,
    find_gguf_weights,
    gguf_in,
    open_gguf,
)
from mell_jax.checkpoints.hf_config import CONFIG_FILE, CheckpointSpec
from mell_jax.checkpoints.hf_config_writer import spec_in_memory
from mell_jax.checkpoints.hf_weights import (
    find_weights,
    has_safetensors,
    open_weights,
)
from mell_jax.checkpoints.model_spec import read_eos_ids, read_spec
from mell_jax.checkpoints.orbax import find_saved, restore, saved_leaves
from mell_jax.checkpoints.orbax_layout import find_orbax
from mell_jax.checkpoints.sources import Reader
from mell_jax.events import Event, tell
from mell_jax.models.config import ModelConfig
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenModel:
    """An open model was found in files and fits together; no value is read yet."""

    spec: CheckpointSpec
    model: AbstractDecoder
    sizes: Mapping[ParameterPath, int]  # stored bytes, in the order of the files
    _read: Callable[
        [Collection[ParameterPath], ShardingFor],
        Iterator[tuple[ParameterPath, jax.Array]],
    ]

    def read(
        self, paths: Collection[ParameterPath], *, sharding_for: ShardingFor
    ) -> Iterator[tuple[ParameterPath, jax.Array]]:
        """Yields parameters, each once it is on its devices, in the files' order."""
        return self._read(paths, sharding_for)


def load_model(
    path: Path,
    *,
    dtype: npt.DTypeLike,
    sharding_for: ShardingFor,
    config: ModelConfig | None = None,
    step: int | None = None,
    context_tokens: int | None = None,
    progress: bool = False,
) -> LoadedModel:
    """Reads the model in `path`, a directory or a GGUF file, in the precision `dtype`.

    Host memory peaks at one array of the checkpoint besides what the devices keep, at
    two where an Orbax checkpoint is cast, since its values are not read in pieces.

    Args:
      path: of the directory or file.
      dtype: of the arrays.
      sharding_for: says where each goes.
      config: the model, where the directory has no `config.json`.
      step: of an Orbax checkpoint that has steps; None for the newest.
      context_tokens: the longest context that will be served; None for the model's.
      progress: shows a bar of bytes on the standard error stream.

    Raises:
      CheckpointError: when a file is missing, damaged, unsupported or does not match
        `config.json`; found before anything large is allocated.
    """
    opened = open_model(
        path, dtype=dtype, config=config, step=step, context_tokens=context_tokens
    )
    arrays = {}
    with _bar(sum(opened.sizes.values()), progress) as bar:
        for name, array in opened.read(opened.sizes, sharding_for=sharding_for):
            arrays[name] = array
            bar.advance(opened.sizes[name])
    return LoadedModel(
        spec=opened.spec,
        graphdef=opened.model.graphdef,
        state=opened.model.state(arrays),
    )


def open_model(
    path: Path,
    *,
    dtype: npt.DTypeLike,
    config: ModelConfig | None = None,
    step: int | None = None,
    context_tokens: int | None = None,
) -> OpenModel:
    """Finds the parameters of the model in `path`; arguments as of `load_model`.

    Raises:
      CheckpointError: as `load_model`.
    """
    spec = find_spec(path, config=config)
    if context_tokens is not None:
        served = spec.config.for_context(context_tokens)
        spec = dataclasses.replace(spec, config=served)
    model = abstract_decoder(spec.config, dtype=dtype)
    if (gguf := gguf_in(path)) is not None:
        return _open_gguf(gguf, spec=spec, model=model)
    folder = find_orbax(path, step=step)
    if folder is not None and has_safetensors(path):
        raise CheckpointError(
            f"{path}: both safetensors and an Orbax checkpoint, {folder}; keep the one "
            "to use"
        )
    if folder is not None:
        return _open_orbax(folder, spec=spec, model=model)
    stored = open_weights(path, dtype=dtype, scheme=spec.scheme)
    sources = FAMILIES[spec.architecture].weights(spec.config)
    weights = find_weights(stored, model, sources=sources)
    return _of_sources(weights, stored, spec=spec, model=model)


def find_spec(path: Path, *, config: ModelConfig | None = None) -> CheckpointSpec:
    """Returns what a model says about itself, or `config` in its place.

    Raises:
      CheckpointError: when a file is missing, damaged or unsupported, or when both say
        what the model is.
    """
    gguf = gguf_in(path)
    if gguf is None and not path.is_dir():
        raise CheckpointError(f"{path}: {explain_path(path)}")
    if config is None:
        return read_spec(path)
    if gguf is not None:
        raise CheckpointError(
            f"{gguf}: describes the model, and so does the config that was given; "
            "leave out the latter"
        )
    if (path / CONFIG_FILE).exists():
        raise CheckpointError(
            f"{path / CONFIG_FILE}: describes the model, and so does the config that "
            "was given; leave out the latter, or take away the file"
        )
    try:
        return spec_in_memory(config, eos_ids=read_eos_ids(path))
    except ValueError as error:  # outside the vocabulary
        raise CheckpointError(f"{path}: {error}") from error


def _open_gguf(
    path: Path, *, spec: CheckpointSpec, model: AbstractDecoder
) -> OpenModel:
    found = open_gguf(path)
    dtype = next(iter(model.parameters.values())).dtype
    sources = architecture_of(found).sources(spec.config)
    stored, weights = find_gguf_weights(found, model, sources=sources, dtype=dtype)
    tell(Event.PROGRESS, text=stored.cost(weights))
    return _of_sources(weights, stored, spec=spec, model=model)


def _of_sources(
    weights: Sequence[Weight],
    reader: Reader,
    *,
    spec: CheckpointSpec,
    model: AbstractDecoder,
) -> OpenModel:
    def read(
        paths: Collection[ParameterPath], sharding_for: ShardingFor
    ) -> Iterator[tuple[ParameterPath, jax.Array]]:
        for weight in weights:
            if weight.path not in paths:
                continue
            # Often a view of another order, which the transfer puts right.
            values = weight.source.read(reader)
            sharding = sharding_for(weight.path, model.shape(weight.path))
            # Blocks, so that the host copy is gone before the next one is made.
            array = jax.device_put(values, sharding).block_until_ready()
            del values
            yield weight.path, array
            del array

    sizes = {weight.path: weight.size_bytes for weight in weights}
    return OpenModel(spec=spec, model=model, sizes=sizes, _read=read)


def _open_orbax(
    folder: Path, *, spec: CheckpointSpec, model: AbstractDecoder
) -> OpenModel:
    leaves = saved_leaves(folder)
    refuse_adapters(folder, leaves)
    dtype = next(iter(model.parameters.values())).dtype
    tree = find_tree(folder, leaves, dtype=dtype)
    if tree is not None:
        parameters = tree.find(model, config=spec.config)
        return _of_sources(parameters, tree, spec=spec, model=model)
    saved = find_saved(folder, model, leaves=leaves)

    def read(
        paths: Collection[ParameterPath], sharding_for: ShardingFor
    ) -> Iterator[tuple[ParameterPath, jax.Array]]:
        for parameter, array in restore(
            folder,
            [parameter for parameter in saved if parameter.path in paths],
            model=model,
            sharding_of=lambda path: sharding_for(path, model.shape(path)),
        ):
            yield parameter.path, array

    sizes = {parameter.path: parameter.size_bytes for parameter in saved}
    return OpenModel(spec=spec, model=model, sizes=sizes, _read=read)


def _bar(total_bytes: int, progress: bool) -> Progress:
    return Progress("loading weights", total=total_bytes, unit="B", has_bar=progress)

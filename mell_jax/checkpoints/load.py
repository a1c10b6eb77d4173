"""Loads a model directory onto devices, one parameter at a time.

A directory holds `config.json` and the weights: safetensors as Hugging Face writes
them, or an Orbax checkpoint in `orbax/`. Nothing is unpickled and no code is run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy.typing as npt
from flax import nnx
from tqdm import tqdm

from mell_jax.checkpoints.abstract import (
    AbstractDecoder,
    ParameterPath,
    abstract_decoder,
)
from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.hf_config import ModelSpec, read_spec
from mell_jax.checkpoints.hf_weights import Weight, find_weights
from mell_jax.checkpoints.safetensors_file import read_tensor
from mell_jax.models.decoder import Decoder

ShardingFor = Callable[[ParameterPath, tuple[int, ...]], jax.sharding.Sharding]
"""Where a parameter of some path and shape goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model on its devices: `nnx.merge(graphdef, state)` is the `Decoder`."""

    spec: ModelSpec
    graphdef: nnx.GraphDef[Decoder]
    state: nnx.State[Any, Any]


def load_model(
    path: Path,
    *,
    dtype: npt.DTypeLike,
    sharding_for: ShardingFor,
    progress: bool = False,
) -> LoadedModel:
    """Reads the model directory `path` in the precision `dtype`.

    Host memory peaks at one parameter besides what the devices keep. With `progress` a
    bar counts bytes on the standard error stream.

    Raises:
      CheckpointError: when a file is missing, damaged, unsupported or does not match
        `config.json`; found before anything large is allocated.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory")
    spec = read_spec(path)
    model = abstract_decoder(spec.config, dtype=dtype)
    weights = find_weights(path, model)
    arrays = dict(_place(weights, model, sharding_for, progress))
    return LoadedModel(spec=spec, graphdef=model.graphdef, state=model.state(arrays))


def _place(
    weights: list[Weight],
    model: AbstractDecoder,
    sharding_for: ShardingFor,
    progress: bool,
) -> Iterator[tuple[ParameterPath, jax.Array]]:
    total = sum(weight.tensor.size_bytes for weight in weights)
    with tqdm(
        total=total,
        desc="loading weights",
        unit="B",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        for weight in weights:
            param = model.parameters[weight.path]
            values = read_tensor(weight.tensor, dtype=param.dtype)
            if weight.is_transposed:
                values = values.T  # a view; the transfer puts it in order
            sharding = sharding_for(weight.path, model.shape(weight.path))
            array = jax.device_put(values, sharding)
            array.block_until_ready()  # so that the host copy can go before the next
            bar.update(weight.tensor.size_bytes)
            yield weight.path, array

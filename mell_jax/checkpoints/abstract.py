"""Describes the parameters that a `Decoder` needs, without any of them in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx

from mell_jax.checkpoints.families.family import ParameterPath
from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class AbstractDecoder:
    """It has the structure of a `Decoder`, and shape and type of each parameter."""

    graphdef: nnx.GraphDef[Decoder]
    parameters: Mapping[ParameterPath, Any]  # nnx.Param of jax.ShapeDtypeStruct

    def shape(self, path: ParameterPath) -> tuple[int, ...]:
        return tuple(self.parameters[path].shape)

    @property
    def num_layers(self) -> int:
        """Returns L."""
        return len({path[1] for path in self.parameters if path[0] == "layers"})

    def state(self, arrays: Mapping[ParameterPath, jax.Array]) -> nnx.State[Any, Any]:
        """Returns the state that `nnx.merge(graphdef, state)` takes, from one array
        each.
        """
        return nnx.from_flat_state(
            [(path, param.replace(arrays[path])) for path, param in self.items()]
        )

    def items(self) -> list[tuple[ParameterPath, Any]]:
        return list(self.parameters.items())


def abstract_decoder(config: ModelConfig, *, dtype: npt.DTypeLike) -> AbstractDecoder:
    """Returns what `Decoder(config, dtype=dtype)` consists of."""
    dtype = np.dtype(dtype)
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype))
    graphdef, state = nnx.split(model)
    return AbstractDecoder(graphdef=graphdef, parameters=parameters_of(state))


def parameters_of(state: nnx.State[Any, Any]) -> dict[ParameterPath, Any]:
    """Returns the `nnx.Param`s of a `Decoder`'s state by path."""
    return {
        tuple(key if isinstance(key, int) else str(key) for key in path): param
        for path, param in nnx.to_flat_state(state)
    }

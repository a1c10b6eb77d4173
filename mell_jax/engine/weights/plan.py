"""A plan remembers how served weights are made of a model's own parameters.

    Weights[4]   layers.0.mlp.gate_up_proj.linear.kernel  [gate + up, in]
      of         layers.0.mlp.gate_proj.kernel, layers.0.mlp.up_proj.kernel  [in, out]

It is kept from the building of an engine, and traced when it is first asked: from then
on the weights of an update are made as those of the start were.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import jax
import jax.numpy as jnp
from flax import nnx

from mell_jax.checkpoints import CheckpointSpec
from mell_jax.engine.weights.programs import ProgramCache, Recent
from mell_jax.engine.weights.recipe import Recipe, recipes_of
from mell_jax.models.servable import ServableModel
from mell_jax.models.serving_form import ServingForm, to_serving_form
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.settings import tracing_settings
from mell_jax.worker.step import ModelParts, split_model

Path = tuple[str | int, ...]

SOURCES = 16
"""Kinds of sources of which it is kept how weights are made of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter is one array of the model as its owner has it."""

    path: Path
    shape: tuple[int, ...]
    dtype: Any  # in which it is served
    is_required: bool  # an `nnx.Param`; others are kept where a source has none
    is_state: bool  # a random key or count, which no source changes

    @property
    def name(self) -> str:
        """Returns its path as text: "layers.0.mlp.up_proj.kernel"."""
        return ".".join(map(str, self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place holds one of the arrays that are served."""

    number: int  # in `Weights`
    path: Path  # in serving form
    shape: tuple[int, ...]
    dtype: Any
    recipe: Recipe  # of parameters, by their numbers


@final
class WeightsPlan:
    """The plan of one model on all of its groups.

    Args:
      model: as its owner has it, its parameters in the type that is served.
      spec: what is known of it.
      form: in which it is served.
      groups: of its instances, in the order of their numbers.
      is_shared: arrays of its owner are served as they are, never copied.
    """

    def __init__(
        self,
        model: ServableModel,
        *,
        spec: CheckpointSpec,
        form: ServingForm,
        groups: Sequence[DeviceGroup],
        is_shared: bool = False,
    ) -> None:
        self._graphdef, state = nnx.split(model)
        self._state = jax.tree.map(_abstract, state)
        self._form = form
        self.spec = spec
        self.model_class = type(model)
        self.programs = ProgramCache()
        self.ways: Recent[Any] = Recent(most=SOURCES)  # of sources; see `batches`
        self.groups = {DeviceGroupId(n): group for n, group in enumerate(groups)}
        self.is_shared = is_shared

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Returns what a source has to have, in the order of recipes' inputs."""
        return tuple(
            Parameter(
                path=tuple(k if isinstance(k, int) else str(k) for k in path),
                shape=tuple(variable.shape),
                dtype=variable.dtype,
                is_required=isinstance(variable, nnx.Param),
                is_state=isinstance(variable, nnx.RngState),
            )
            for path, variable in nnx.to_flat_state(self._state)
        )

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Returns the places of `Weights`, in their order."""
        leaves, treedef = jax.tree.flatten(self._state)
        found: list[tuple[ModelParts, list[Any]]] = []

        def formed(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            state = jax.tree.unflatten(treedef, arrays)
            model: Any = nnx.merge(self._graphdef, state)
            to_serving_form(model, form=self._form)
            parts, weights = split_model(*nnx.split(model))
            found.append((parts, [_abstract(array) for array in weights]))
            return weights

        with tracing_settings():
            recipes = recipes_of(formed, leaves)
        ((parts, weights),) = found
        return tuple(
            Place(
                number=number,
                path=parts.paths[number],
                shape=tuple(array.shape),
                dtype=array.dtype,
                recipe=recipe,
            )
            for number, (array, recipe) in enumerate(zip(weights, recipes, strict=True))
        )

    def places_of(self, leaves: Collection[int]) -> list[Place]:
        """Returns the places all of whose parameters are there.

        They come in the order of the first of these: it may be that of a file.

        Args:
          leaves: the numbers of parameters, in some order.
        """
        rank = {number: at for at, number in enumerate(leaves)}
        places = [
            place
            for place in self.places
            if place.recipe.inputs and all(n in rank for n in place.recipe.inputs)
        ]
        return sorted(places, key=lambda one: min(rank[n] for n in one.recipe.inputs))

    @cached_property
    def by_name(self) -> Mapping[str, int]:
        """Returns the numbers of parameters by their names."""
        return {one.name: number for number, one in enumerate(self.parameters)}


def _abstract(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(array), array.dtype)

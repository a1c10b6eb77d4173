"""A leaf is what one parameter comes from: arrays on devices, or values of the host.

`place_maker` joins the leaves of a place of `Weights` and what the plan says of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mell_jax.engine.weights.plan import Parameter, Place, WeightsPlan
from mell_jax.engine.weights.routes import find_route
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.settings import own_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLeaf:
    """An array is on devices, or is made there when it is asked for."""

    array: jax.ShapeDtypeStruct  # with its sharding
    get: Callable[[], jax.Array]
    is_own: bool  # `get` made it: its owner has another

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @classmethod
    def of(cls, array: jax.Array) -> "DeviceLeaf":
        return cls(array=described(array), get=lambda: array, is_own=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLeaf:
    """The values are in host memory or in a file."""

    shape: tuple[int, ...]
    dtype: Any
    put: Callable[[Any, jax.sharding.Sharding], jax.Array]
    """Puts them on a sharding in a type; what it returns is nobody else's."""


Leaf = DeviceLeaf | HostLeaf
Make = Callable[[], jax.Array]


def place_maker(
    plan: WeightsPlan, place: Place, leaves: Mapping[int, Leaf], *, group: DeviceGroup
) -> Make:
    """Returns what makes the array of a place on a group; all is compiled already.

    Args:
      plan: of the model.
      place: one whose parameters all have leaves.
      leaves: by the numbers of parameters.
      group: whose devices it is made on.
    """
    parameters = [plan.parameters[number] for number in place.recipe.inputs]
    comings = [
        _coming(plan, one, leaves[number], group=group)
        for number, one in zip(place.recipe.inputs, parameters, strict=True)
    ]
    types = tuple(np.dtype(one.dtype) for one in parameters)
    is_cast = any(c.array.dtype != t for c, t in zip(comings, types, strict=True))
    if place.recipe.is_identity and not is_cast and comings[0].is_own:
        return comings[0].get

    def form(*arrays: jax.Array) -> jax.Array:
        cast = [a.astype(t) for a, t in zip(arrays, types, strict=True)]
        return jax.numpy.copy(place.recipe.make(*cast))

    program = plan.programs.get(
        ("form", place.recipe.text, types),
        form,
        [coming.array for coming in comings],
        out=group.weight_sharding(place.path, place.shape),
    )
    return lambda: program(*[coming.get() for coming in comings])


def described(array: jax.Array) -> jax.ShapeDtypeStruct:
    """Returns what there is to know of an array but its values."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _coming(
    plan: WeightsPlan, parameter: Parameter, leaf: Leaf, *, group: DeviceGroup
) -> DeviceLeaf:
    """Returns a leaf as it comes to the devices of a group."""
    to = group.weight_sharding(parameter.path, parameter.shape)
    if isinstance(leaf, HostLeaf):
        arrives = jax.ShapeDtypeStruct(parameter.shape, parameter.dtype, sharding=to)

        def put() -> jax.Array:
            with own_settings():  # who gives values of the host wants them moved
                return leaf.put(parameter.dtype, to)

        return DeviceLeaf(array=arrives, get=put, is_own=True)
    route = find_route(leaf.array, to=to, dtype=parameter.dtype, programs=plan.programs)
    return DeviceLeaf(
        array=route.arrives,
        get=lambda: route.go(leaf.get()),
        is_own=leaf.is_own or route.is_copy,
    )

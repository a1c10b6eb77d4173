"""A leaf is what one parameter comes from: arrays on devices, or values of the host."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax

from mell_jax.engine.weights.plan import WeightsPlan
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
    def kind(self) -> Hashable:
        """Returns all that its way to the engine depends on."""
        return self.array.shape, self.array.dtype, self.array.sharding, self.is_own

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

    @property
    def kind(self) -> Hashable:
        """Returns all that its way to the engine depends on: it is put anywhere."""
        return "host"


Leaf = DeviceLeaf | HostLeaf


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """Leaves of one kind come to the devices of a group in this way."""

    number: int  # of the parameter
    array: jax.ShapeDtypeStruct  # as it arrives
    is_own: bool  # nobody else has what arrives
    take: Callable[[Any], jax.Array]  # of a leaf of that kind


def described(array: jax.Array) -> jax.ShapeDtypeStruct:
    """Returns what there is to know of an array but its values."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def coming_to(
    group: DeviceGroup, number: int, leaf: Leaf, *, plan: WeightsPlan
) -> Coming:
    """Returns how a parameter's leaf comes to a group; all is compiled already."""
    parameter = plan.parameters[number]
    to = group.weight_sharding(parameter.path, parameter.shape)
    if isinstance(leaf, HostLeaf):
        arrives = jax.ShapeDtypeStruct(parameter.shape, parameter.dtype, sharding=to)

        def put(given: HostLeaf) -> jax.Array:
            with own_settings():  # who gives values of the host wants them moved
                return given.put(parameter.dtype, to)

        return Coming(number=number, array=arrives, is_own=True, take=put)
    route = find_route(leaf.array, to=to, dtype=parameter.dtype, programs=plan.programs)
    return Coming(
        number=number,
        array=route.arrives,
        is_own=leaf.is_own or route.is_copy,
        take=lambda given: route.go(given.get()),
    )

"""A route takes an array from where its owner keeps it to the devices of a group.

    the pieces lie there already      they are taken as they are
    they lie on other devices         each is copied across
    cut in another way, or wider      a program on the owner's devices cuts and casts,
                                      then each piece is copied across

No value passes through host memory, as it would if `jax.device_put` were asked for an
array that is cut in another way: it fetches such arrays whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from mell_jax.engine.weights.programs import ProgramCache

Index = tuple[tuple[int, int], ...]
"""A piece of an array: where it starts and ends on each axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route is ready to be gone: nothing of it compiles any more."""

    arrives: jax.ShapeDtypeStruct
    is_copy: bool  # what arrives shares no memory with what left
    go: Callable[[jax.Array], jax.Array]


def find_route(
    array: jax.ShapeDtypeStruct, *, to: Sharding, dtype: Any, programs: ProgramCache
) -> Route:
    """Returns how an array comes to a sharding, cast only if it is cut or narrowed.

    Args:
      array: its shape, type and sharding; all of its devices are of this process.
      to: where it is wanted.
      dtype: in which it is wanted in the end.
      programs: keeps what is compiled.
    """
    start = on_devices(array)
    wanted, here = pieces_of(to, array.shape), pieces_of(start.sharding, array.shape)
    is_there = all(here.get(device) == index for device, index in wanted.items())
    is_narrowed = np.dtype(dtype).itemsize < array.dtype.itemsize
    if is_there or (not is_narrowed and set(wanted.values()) <= set(here.values())):
        is_moved = start.sharding.memory_kind != array.sharding.memory_kind
        stays = any(here.get(device) == index for device, index in wanted.items())
        return Route(
            arrives=jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=to),
            is_copy=is_moved or not stays,
            go=lambda given: _gather(_on_devices(given, start), to=to),
        )
    cuts = tuple(dict.fromkeys(wanted.values()))
    whole = _whole_on(start.sharding, array.shape)
    cut = programs.get(
        ("cut", cuts, np.dtype(dtype)),
        lambda given: tuple(_cut(given.astype(dtype), index) for index in cuts),
        [start],
        out=(whole,) * len(cuts),
    )

    def go(given: jax.Array) -> jax.Array:
        made = dict(zip(cuts, cut(_on_devices(given, start)), strict=True))
        pieces = [_piece_on(device, made[index]) for device, index in wanted.items()]
        return _assemble(array.shape, to=to, pieces=pieces)

    return Route(
        arrives=jax.ShapeDtypeStruct(array.shape, dtype, sharding=to),
        is_copy=True,
        go=go,
    )


def on_devices(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Returns the same in its devices' own memory: not in the host's, pinned.

    A mesh whose axes are explicit gets automatic ones: the types of arrays are theirs.
    """
    sharding = array.sharding
    kind = next(iter(sharding.device_set)).default_memory().kind
    if isinstance(sharding, NamedSharding):
        sharding = _automatic(sharding)
    if sharding.memory_kind not in (None, kind):
        sharding = sharding.with_memory_kind(kind)
    if sharding is array.sharding:
        return array
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def put_on_devices(array: jax.Array) -> jax.Array:
    """Returns an array as `on_devices` describes it; mostly as it is."""
    described = jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
    return _on_devices(array, on_devices(described))


def pieces_of(sharding: Sharding, shape: Sequence[int]) -> Mapping[jax.Device, Index]:
    """Returns which piece of an array lies on which device, in their order."""
    return {
        device: tuple(
            part.indices(size)[:2] for part, size in zip(index, shape, strict=True)
        )
        for device, index in sharding.devices_indices_map(tuple(shape)).items()
    }


def view_on(array: jax.Array, to: Sharding) -> jax.Array | None:
    """Returns the same memory as an array of `to`, None if it does not lie so."""
    here = pieces_of(array.sharding, array.shape)
    wanted = pieces_of(to, array.shape)
    if any(here.get(device) != index for device, index in wanted.items()):
        return None
    if array.sharding.memory_kind not in (None, to.memory_kind):
        return None
    return _gather(array, to=to)


def _on_devices(given: jax.Array, start: jax.ShapeDtypeStruct) -> jax.Array:
    if given.sharding == start.sharding:
        return given
    moved: jax.Array = jax.device_put(given, start.sharding)
    return moved


def _gather(given: jax.Array, *, to: Sharding) -> jax.Array:
    """Takes every piece from the device that has it, from its own if that does."""
    if given.sharding == to and given.committed:
        return given
    wanted = pieces_of(to, given.shape)
    here = pieces_of(given.sharding, given.shape)
    on = {shard.device: shard.data for shard in given.addressable_shards}
    first = {index: device for device, index in reversed(list(here.items()))}
    pieces = [
        on[device]
        if here.get(device) == index
        else jax.device_put(on[first[index]], SingleDeviceSharding(device))
        for device, index in wanted.items()
    ]
    return _assemble(given.shape, to=to, pieces=pieces)


def _piece_on(device: jax.Device, whole: jax.Array) -> jax.Array:
    """Returns on a device what lies on each of some devices."""
    shards: dict[jax.Device, jax.Array] = {
        shard.device: shard.data for shard in whole.addressable_shards
    }
    there = shards.get(device, next(iter(shards.values())))
    moved: jax.Array = jax.device_put(there, SingleDeviceSharding(device))
    return moved


def _assemble(
    shape: tuple[int, ...], *, to: Sharding, pieces: list[jax.Array]
) -> jax.Array:
    if isinstance(to, SingleDeviceSharding):  # committed to it, not moved
        (piece,) = pieces
        return piece if piece.committed else jax.device_put(piece, to)
    return jax.make_array_from_single_device_arrays(shape, to, pieces)


def _cut(array: jax.Array, index: Index) -> jax.Array:
    starts = [start for start, _ in index]
    return jax.lax.slice(array, starts, [stop for _, stop in index])


def _whole_on(sharding: Sharding, shape: tuple[int, ...]) -> Sharding:
    """Returns the sharding of what is whole on each device of another."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    devices = list(sharding.devices_indices_map(shape))
    if len(devices) == 1:
        return SingleDeviceSharding(devices[0])
    return NamedSharding(Mesh(np.array(devices), ("all",)), PartitionSpec())


def _automatic(sharding: NamedSharding) -> NamedSharding:
    mesh = sharding.mesh
    auto = (AxisType.Auto,) * len(mesh.axis_names)
    if mesh.axis_types == auto or not isinstance(mesh, Mesh):
        return sharding
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=auto)
    return NamedSharding(mesh, sharding.spec, memory_kind=sharding.memory_kind)

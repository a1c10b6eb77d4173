"""Reads a mesh of a trainer as the instances that are to serve on its devices."""

from typing import Any

import jax
import numpy as np

TENSOR_AXES = ("tp", "tensor", "model")
"""What the axis is called whose devices serve one instance together."""


def serving_options(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Returns a mesh as options of `EngineConfig`.

    Devices along the axis "tp", "tensor" or "model" serve one instance together, by
    tensor parallelism. Each index of the other axes is an instance of its own; where
    none of the axes has such a name, each device is.

    Raises:
      ValueError: two axes have such names, or devices are not of this process.
    """
    found = [name for name in mesh.axis_names if name in TENSOR_AXES]
    if len(found) > 1:
        raise ValueError(
            f"one axis of the mesh is for tensor parallelism, got {found}; call the "
            "others something else"
        )
    devices = np.asarray(mesh.devices)
    if found:
        devices = np.moveaxis(devices, mesh.axis_names.index(found[0]), -1)
    rows = devices.reshape(-1, devices.shape[-1] if found else 1)
    numbers = {device: number for number, device in enumerate(jax.devices())}
    strange = [device for device in rows.flat if device not in numbers]
    if strange:
        raise ValueError(
            f"the mesh has devices that jax.devices() does not name: {strange[:3]}; "
            "serve on those of the default backend"
        )
    return {
        "instances": rows.shape[0],
        "tensor_parallel": rows.shape[1],
        "device_ids": tuple(numbers[device] for device in rows.flat),
    }


def with_mesh(options: dict[str, Any], mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Returns options with those that a mesh stands for, which must not be there."""
    meant = serving_options(mesh)
    twice = [name for name in meant if name in options]
    if twice:
        raise ValueError(f"mesh= says {', '.join(twice)}; give one or the other")
    return options | meant

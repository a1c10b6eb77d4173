"""Takes programs that were compiled for some devices over to others just like them.

XLA compiles for a device and not for a kind of device, so that a fleet of eight would
compile everything eight times. On a CPU a program differs in nothing but the device
that it is assigned to: it is written out and read in again with another assignment,
in milliseconds. That has to be done before it runs, which may add to it what cannot be
written (comparisons of sorts, in jax 0.10). Other platforms compile anew, for which
JAX's cache has one entry.
"""

import copy
from typing import Any

import jax
import numpy as np
from absl import logging
from jax._src.lib import xla_client  # type: ignore[attr-defined]

from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.step import Programs


def rebind_programs(
    programs: Programs, *, source: DeviceGroup, target: DeviceGroup
) -> Programs | None:
    """Returns compiled programs of `source` for `target`; None where that cannot be."""
    if source.devices == target.devices:
        return programs
    platforms = {device.platform for device in (*source.devices, *target.devices)}
    if platforms != {"cpu"} or source.layout != target.layout:
        return None
    try:
        return programs.changed(lambda one: rebind(one, source=source, target=target))
    except (AttributeError, TypeError, ValueError, jax.errors.JaxRuntimeError) as error:
        # JAX promises nothing of the inside of its executables.
        logging.info("programs are compiled anew for each device: %s", error)
        return None


def rebind(
    compiled: jax.stages.Compiled, *, source: DeviceGroup, target: DeviceGroup
) -> jax.stages.Compiled:
    """Returns a program compiled for `source`, and not run yet, for `target`.

    Raises:
      JaxRuntimeError: XLA cannot write it.
    """
    inner: Any = compiled
    unloaded = inner._executable._unloaded_executable
    executable = unloaded.xla_executable
    instead: dict[int, Any] = {
        id(one): other
        for one, other in zip(source.devices, target.devices, strict=True)
    }
    client = target.devices[0].client
    instead[id(client)] = client
    instead[id(source.mesh)] = target.mesh  # of equal devices there is one
    instead[id(executable)] = _load(executable.serialize(), target=target)
    unloaded, arguments = copy.deepcopy((unloaded, inner.args_info), instead)
    return jax.stages.Compiled(
        unloaded.load(), [], arguments, compiled.out_tree, no_kwargs=inner._no_kwargs
    )


def _load(written: bytes, *, target: DeviceGroup) -> Any:
    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = 1, target.size
    ids = np.array([[device.id for device in target.devices]], np.int32)
    options.device_assignment = xla_client.DeviceAssignment.create(ids)
    return target.devices[0].client.deserialize_executable(
        written,
        executable_devices=xla_client.DeviceList(target.devices),
        compile_options=options,
    )

"""Devices that are not here: enough of them to compile for."""

import contextlib
from collections.abc import Iterator

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

A100 = AbstractDevice(
    device_kind="NVIDIA A100-SXM4-80GB", num_cores=None, platform="gpu"
)
H100 = AbstractDevice(
    device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu"
)
V5E = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
V6E = AbstractDevice(device_kind="TPU v6 lite", num_cores=1, platform="tpu")


@contextlib.contextmanager
def tracing_for(device: AbstractDevice) -> Iterator[None]:
    """Traces for `device` within the block."""
    mesh = AbstractMesh(
        (1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device
    )
    with jax.sharding.use_abstract_mesh(mesh):
        yield


def lowering_platform(device: AbstractDevice) -> str:
    """What jax calls the platform when it lowers."""
    return "cuda" if device.platform == "gpu" else device.platform

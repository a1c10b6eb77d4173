"""Describes the machine and the software that a figure belongs to."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import jax
import numpy as np

from mell_jax.worker.cpu_info import flags_of, read_cpus

_FEATURES = (  # of x86-64 and of Arm; what a matrix product's speed hangs on
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw"),
    *("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme"),
)
_PACKAGES = ("mell_jax", "jax", "jaxlib", "flax", "numpy", "grpcio")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineInfo:
    """It is taken when a suite starts."""

    started_at: str  # UTC, ISO 8601
    platform: str
    cpu_model: str
    cpu_features: tuple[str, ...]  # those of SIMD: "avx2", "fma", ...
    cpus: int  # that this process may use
    load_average: tuple[float, float, float]  # over 1, 5 and 15 minutes
    devices: tuple[str, ...]
    python: str
    versions: dict[str, str]

    def __str__(self) -> str:
        loads = " ".join(f"{load:.2f}" for load in self.load_average)
        return (
            f"{self.cpus} x {self.cpu_model}, {', '.join(self.devices)}, load {loads}, "
            f"python {self.python}, jax {self.versions.get('jax', '?')}\n"
            f"CPU features: {' '.join(self.cpu_features) or 'unknown'}"
        )


def look_around() -> MachineInfo:
    """Describes this machine as it is now."""
    return MachineInfo(
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        platform=platform.platform(),
        cpu_model=_cpu_model(),
        cpu_features=_cpu_features(),
        cpus=num_cpus(),
        load_average=os.getloadavg(),
        devices=tuple(device.device_kind for device in jax.local_devices()),
        python=platform.python_version(),
        versions=_versions(),
    )


def num_cpus() -> int:
    """Returns CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def features_in(cpuinfo: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the SIMD features among the flags of a CPU of /proc/cpuinfo.

    >>> features_in({"flags": "fpu sse2 avx2 fma"})
    ('avx2', 'fma')
    """
    flags = flags_of(cpuinfo)
    return tuple(name for name in _FEATURES if name in flags)


def _cpu_model() -> str:
    named = [cpu.get("model name", "") for cpu in read_cpus()[:1]]
    return "".join(named) or platform.processor() or platform.machine()


def _cpu_features() -> tuple[str, ...]:
    """Those that the kernel tells; where it does not, the groups that numpy found."""
    for cpu in read_cpus()[:1]:
        return features_in(cpu)
    groups = np.show_config(mode="dicts")["SIMD Extensions"]
    return (*groups["baseline"], *groups["found"])


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            versions[name] = "not installed"
    return versions

"""Describes the machine and the software that a figure belongs to."""

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jax

_PACKAGES = ("mell_jax", "jax", "jaxlib", "flax", "numpy", "grpcio")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineInfo:
    """It is taken when a suite starts."""

    started_at: str  # UTC, ISO 8601
    platform: str
    cpu_model: str
    cpus: int  # that this process may use
    load_average: tuple[float, float, float]  # over 1, 5 and 15 minutes
    devices: tuple[str, ...]
    python: str
    versions: dict[str, str]

    def __str__(self) -> str:
        loads = " ".join(f"{load:.2f}" for load in self.load_average)
        return (
            f"{self.cpus} x {self.cpu_model}, {', '.join(self.devices)}, load {loads}, "
            f"python {self.python}, jax {self.versions.get('jax', '?')}"
        )


def look_around() -> MachineInfo:
    """Describes this machine as it is now."""
    return MachineInfo(
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        platform=platform.platform(),
        cpu_model=_cpu_model(),
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


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            versions[name] = "not installed"
    return versions

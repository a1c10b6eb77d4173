"""Reads what Linux tells of this machine's CPUs."""

from collections.abc import Mapping
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def read_cpus() -> list[dict[str, str]]:
    """Returns the fields of each CPU; none where there is no Linux."""
    if not _CPUINFO.exists():
        return []
    return cpus_in(_CPUINFO.read_text(encoding="utf-8", errors="replace"))


def cpus_in(text: str) -> list[dict[str, str]]:
    """Returns the fields of each CPU of a `/proc/cpuinfo`.

    >>> cpus_in("flags : fpu avx2\\n\\nflags : fpu")
    [{'flags': 'fpu avx2'}, {'flags': 'fpu'}]
    """
    cpus = []
    for block in text.strip().split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        cpus.append({name.strip(): value.strip() for name, _, value in pairs})
    return cpus


def flags_of(cpu: Mapping[str, str]) -> list[str]:
    """Returns the features of a CPU, of x86-64 or Arm, as Linux calls them."""
    return cpu.get("flags", cpu.get("Features", "")).split()

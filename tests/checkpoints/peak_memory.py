"""Loads the model directory given on the command line and prints memory as JSON.

Run by `test_peak_memory.py` in a process of its own, since a peak never goes down.
"""

import json
import sys
from pathlib import Path

import jax

jax.config.update("jax_platforms", "cpu")

import jax.numpy as jnp  # noqa: E402

from mell_jax.checkpoints import load_model  # noqa: E402


def resident_bytes(name: str) -> int:
    """VmRSS or VmHWM (the peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {name} in /proc/self/status")


def load(directory: Path, dtype: str) -> tuple[int, int]:
    """Loads; returns the bytes of all parameters and of the largest."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    model = load_model(
        directory, dtype=jnp.dtype(dtype), sharding_for=lambda path, shape: sharding
    )
    leaves = jax.tree.leaves(model.state)
    return sum(leaf.nbytes for leaf in leaves), max(leaf.nbytes for leaf in leaves)


small, large, precision = sys.argv[1:]
load(Path(small), precision)  # so that libraries and compiled programs are in place
Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
before = resident_bytes("VmHWM")
model_bytes, largest_bytes = load(Path(large), precision)
print(
    json.dumps(
        {
            "model": model_bytes,
            "largest": largest_bytes,
            "peak": resident_bytes("VmHWM") - before,
        }
    )
)

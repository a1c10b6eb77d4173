"""The CPU as several devices: only from the start, and only where it is needed."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from mell_jax.worker.cpu_devices import use_cpu_devices

ROOT = Path(__file__).parents[2]


def test_too_late_is_said_so() -> None:
    assert len(jax.devices()) == 8  # jax is in use
    with pytest.raises(ValueError, match="before jax is used, and it has been used al"):
        use_cpu_devices(3)


def test_at_least_one_device_is_needed() -> None:
    with pytest.raises(ValueError, match="cpu_devices must be at least 1, got 0"):
        use_cpu_devices(0)


def test_jax_sees_as_many_devices_as_asked_for() -> None:
    code = (
        "import jax\n"
        "from mell_jax.worker.cpu_devices import use_cpu_devices\n"
        "jax.config.update('jax_platforms', 'cpu')\n"
        "use_cpu_devices(3)\n"
        "assert len(jax.devices()) == 3\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)

"""Host memory while loading, measured in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from mell_jax.checkpoints import save_hf, save_orbax
from tests.checkpoints.tiny import decoder

ROOT = Path(__file__).parents[2]
LARGE = {
    "vocab_size": 4096,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_layers": 4,
    "num_heads": 8,
    "num_kv_heads": 8,
    "head_dim": 128,
}  # 62 million parameters, the largest 4 million


@pytest.mark.slow
@pytest.mark.parametrize(
    ("save", "stored", "loaded"),
    [
        (save_hf, "float32", "float32"),
        (save_hf, "bfloat16", "float32"),
        (save_hf, "float32", "bfloat16"),
        (save_orbax, "float32", "float32"),
        (save_orbax, "bfloat16", "float32"),
        pytest.param(
            *(save_orbax, "float32", "bfloat16"),
            marks=pytest.mark.xfail(
                reason="36 MB over the model where 29 are allowed: Orbax places the "
                "uncast array on the device, which is the host on a CPU"
            ),
        ),
    ],
)
def test_the_peak_is_the_model_and_one_parameter(tmp_path, save, stored, loaded):
    save(tmp_path / "small", decoder=decoder(jnp.dtype(stored)))
    save(tmp_path / "large", decoder=decoder(jnp.dtype(stored), **LARGE))
    command = [sys.executable, "-m", "tests.checkpoints.peak_memory"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [*command, str(tmp_path / "small"), str(tmp_path / "large"), loaded],
        check=True,
        capture_output=True,
        cwd=ROOT,
        env=environment,
    )
    memory = json.loads(result.stdout.splitlines()[-1])
    assert memory["model"] > 100e6
    largest = 4096 * 1024 * max(jnp.dtype(stored).itemsize, jnp.dtype(loaded).itemsize)
    assert memory["peak"] > memory["model"]
    assert memory["peak"] < 1.1 * memory["model"] + largest, memory

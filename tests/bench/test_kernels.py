import jax.numpy as jnp
import pytest

from mell_jax.bench.kernel_timing import (
    Load,
    Timer,
    attention_inputs,
    attention_seconds,
    move_seconds,
    paged,
    step_seconds,
)
from mell_jax.bench.kernels import KernelSettings, run_kernels
from mell_jax.bench.main import main
from mell_jax.bench.shapes import SHAPES

ONCE = Timer(repeats=1)
SMALL = Load(rows=2, context=32)


def test_a_load_knows_its_bytes_and_flops():
    # 8 KV heads of 128, keys and values, 2 bytes: 4 KiB a token
    assert Load(rows=64, context=4096).kv_bytes(2) == 2**30
    # 32 heads of 128, two products of two operations, 3 + 4 keys seen
    assert Load(rows=1, context=4, new=2).flops == 4 * 32 * 128 * 7


def test_on_a_cpu_the_reference_is_timed(monkeypatch):
    monkeypatch.setattr("mell_jax.bench.kernels.ON_CPU", (SMALL,))
    report = run_kernels(KernelSettings(repeats=1), progress=False)
    (figure,) = report.results["figures"]
    assert figure["name"] == "decode 2 x 32 float32"
    assert figure["value"] > 0.0


def test_the_pieces_of_the_gpu_run_work_anywhere():
    for dtype in ("float32", "int8"):
        inputs = attention_inputs(SMALL, kv_dtype=jnp.dtype(dtype), seed=0)
        if dtype == "float32":
            inputs["pool"] = inputs["pool"].astype(jnp.float32)
        inputs["q"] = inputs["q"].astype(jnp.float32)
        assert attention_seconds(ONCE, inputs, paged(SMALL, backend="xla")) > 0.0
    assert min(move_seconds(ONCE, seed=0, count=1, pages=10, dtype=jnp.float32)) > 0.0
    seconds, read = step_seconds(
        ONCE,
        config=SHAPES["tiny"],
        load=SMALL,
        backend="xla",
        seed=0,
        dtype=jnp.float32,
    )
    assert seconds > 0.0
    assert read > 2 * 32 * 2 * 2 * 32 * 4  # the keys and values alone


def test_what_a_cpu_cannot_measure_is_refused(capsys):
    assert main(["mell-bench", "--suite=kernels", "--tune", "--noprogress"]) == 1
    assert "needs a GPU" in capsys.readouterr().err
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        KernelSettings(repeats=0)
    with pytest.raises(ValueError, match="attention_backend must be auto, mosaic_gpu"):
        KernelSettings(backend="cuda")

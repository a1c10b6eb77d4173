"""What only the simulators of TPUs and GPUs can see: races, semaphores, barriers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mell_jax.pallas_kernels.attention import mosaic_tpu
from mell_jax.pallas_kernels.attention.tuning import MosaicGpuSizes, MosaicTpuSizes
from tests.pallas_kernels import cases, oracle
from tests.pallas_kernels.cases import Options
from tests.pallas_kernels.oracle import Batch

IS_OLD = jax.__version_info__ < (0, 11)


def simulated(attend: Any, batch: Batch, options: Options, **static: Any) -> Any:
    """The output of a body, called past the choice of back ends."""
    call = jax.jit(
        functools.partial(
            attend,
            layer=jnp.int32(oracle.LAYER),
            sm_scale=batch.q.shape[2] ** -0.5,
            window=options.window,
            soft_cap=options.soft_cap,
            decode=options.decode,
            **static,
        ),
        compiler_options=cases.QUICK,
    )
    metadata = {
        "page_table": jnp.asarray(batch.page_table),
        "kv_lens": jnp.asarray(batch.kv_lens),
        "cu_q_lens": jnp.asarray(batch.cu_q_lens),
    }
    return np.asarray(call(jnp.asarray(batch.q), jnp.asarray(batch.pool), **metadata))


def error(got: oracle.Array, batch: Batch, options: Options) -> float:
    want = oracle.attend(
        batch,
        sm_scale=batch.q.shape[2] ** -0.5,
        window=options.window,
        soft_cap=options.soft_cap,
    )
    return oracle.relative_error(got, want)


def test_a_planted_race_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    def reads_too_early(x_hbm: Any, out: Any, x: Any, sem: Any) -> None:
        copy = pltpu.make_async_copy(x_hbm, x, sem)
        copy.start()
        out[...] = x[...]
        copy.wait()

    x = jnp.ones((8, 128))
    got = pl.pallas_call(
        reads_too_early,
        in_specs=[pl.BlockSpec(memory_space=pl.ANY)],
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        scratch_shapes=[pltpu.VMEM(x.shape, x.dtype), pltpu.SemaphoreType.DMA],
        interpret=pltpu.InterpretParams(detect_races=True),
    )(x)
    jax.block_until_ready(got)
    assert "RACE DETECTED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("decode", "mode"), [(True, "eager"), (False, "on_wait")], ids=str
)
def test_the_tpu_kernel_has_no_races(
    capsys: pytest.CaptureFixture[str], decode: bool, mode: Any
) -> None:
    options = Options(backend="mosaic_tpu", decode=decode)
    batch = cases.make(options, head=128, dtype="bfloat16")
    got = simulated(
        mosaic_tpu.ragged_paged_attention,
        batch,
        options,
        device_kind="TPU v6 lite",
        interpret=pltpu.InterpretParams(detect_races=True, dma_execution_mode=mode),
        sizes=MosaicTpuSizes(tile_tokens=8, block_pages=4),
    )
    assert "RACE DETECTED" not in capsys.readouterr().out
    assert error(got, batch, options) <= 2e-3


@pytest.mark.skipif(IS_OLD, reason="jax before 0.11 cannot simulate Mosaic on GPUs")
@pytest.mark.parametrize(
    ("head", "options", "group", "splits"),
    [
        (64, Options(backend="mosaic_gpu", decode=True), 4, 1),
        (
            128,
            Options(backend="mosaic_gpu", decode=True, window=40, soft_cap=3.0),
            3,
            2,
        ),
        (64, Options(backend="mosaic_gpu"), 2, 1),  # long rows go to Triton
    ],
)
def test_the_hopper_kernel_matches_the_oracle_without_races(
    capsys: pytest.CaptureFixture[str],
    head: int,
    options: Options,
    group: int,
    splits: int,
) -> None:
    from jax.experimental.pallas import mosaic_gpu as plgpu  # noqa: PLC0415

    from mell_jax.pallas_kernels.attention import mosaic_gpu  # noqa: PLC0415

    batch = cases.make(options, head=head, group=group, dtype="bfloat16")
    got = simulated(
        mosaic_gpu.ragged_paged_attention,
        batch,
        options,
        device_kind="NVIDIA H100",
        interpret=plgpu.InterpretGPUParams(detect_races=True),  # type: ignore[attr-defined,unused-ignore]
        sizes=MosaicGpuSizes(block_tokens=64, num_slots=2, num_splits=splits),
    )
    assert "RACE DETECTED" not in capsys.readouterr().out
    assert error(got, batch, options) <= 2e-3


@pytest.mark.skipif(IS_OLD, reason="jax before 0.11 cannot simulate Mosaic on GPUs")
def test_the_hopper_kernel_can_be_asked_for_by_name() -> None:
    options = Options(backend="mosaic_gpu", decode=True)
    batch = cases.make(options, head=64, group=4, dtype="bfloat16")
    assert cases.error(batch, options) <= 2e-3


@pytest.mark.skipif(IS_OLD, reason="jax before 0.11 cannot simulate Mosaic on GPUs")
def test_a_race_planted_on_a_gpu_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    from jax.experimental.pallas import mosaic_gpu as plgpu  # noqa: PLC0415

    def reads_too_early(x: Any, out: Any, shared: Any, ready: Any) -> None:
        plgpu.copy_gmem_to_smem(x, shared, ready)
        out[...] = shared[...]
        plgpu.barrier_wait(ready)

    x = jnp.ones((64, 64))
    call = plgpu.kernel(
        reads_too_early,
        out_type=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=(1,),
        grid_names=("i",),
        scratch_types=[plgpu.SMEM(x.shape, x.dtype), plgpu.Barrier()],
        interpret=plgpu.InterpretGPUParams(detect_races=True),  # type: ignore[attr-defined,call-arg,unused-ignore]
    )
    jax.block_until_ready(call(x))
    assert "RACE DETECTED" in capsys.readouterr().out

"""Whole programs through the real compilers of GPUs and TPUs, on any machine.

`make aot` installs what they need; without it these tests skip.
"""

import dataclasses
import functools
import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from mell_jax.pallas_kernels import (
    QuantizedPool,
    gather_pages,
    ragged_paged_attention,
    scatter_pages,
    write_kv,
)
from mell_jax.worker.layout import Bucket
from tests.pallas_kernels import aot
from tests.pallas_kernels.cases import HEADS

pytestmark = pytest.mark.usefixtures("nothing_kept")
DECODE = Bucket(tokens=64, rows=64, pages=256, is_decode=True)
MIXED = Bucket(tokens=512, rows=64, pages=256, is_decode=False)
SHARED_MEMORY = re.compile(r"shared|RESOURCE_EXHAUSTED", re.IGNORECASE)


def has(*modules: str) -> bool:
    return any(importlib.util.find_spec(name) is not None for name in modules)


gpu = [
    pytest.mark.aot_gpu,
    pytest.mark.skipif(
        not has("jax_cuda12_plugin", "jax_cuda13_plugin"), reason="run `make aot`"
    ),
]
tpu = [
    pytest.mark.aot_tpu,
    pytest.mark.skipif(not has("libtpu"), reason="run `make aot`"),
]


def each(*values: Any, marks: Any) -> list[Any]:
    return [pytest.param(*value, marks=marks) for value in values]


TARGETS = pytest.mark.parametrize(
    ("platform", "name", "backend"),
    [
        *each(("gpu", "h100", "triton"), ("gpu", "h100", "mosaic_gpu"), marks=gpu),
        *each(("gpu", "a100", "triton"), marks=gpu),
        *each(("tpu", "v6e:2x2", "mosaic_tpu"), marks=tpu),
        *each(("tpu", "v5e:2x2", "mosaic_tpu"), marks=tpu),
    ],
)


@pytest.fixture(autouse=True)
def tpu_without_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
    ):
        monkeypatch.setenv(name, value)


def mesh_of(platform: str, name: str) -> jax.sharding.Mesh:
    return aot.gpu_mesh(name) if platform == "gpu" else aot.tpu_mesh(name)


@TARGETS
@pytest.mark.parametrize("bucket", [DECODE, MIXED], ids=["decode", "mixed"])
@pytest.mark.parametrize("layers", [2, pytest.param(32, marks=pytest.mark.slow)])
def test_a_whole_step_leaves_the_pool_where_it_is(
    platform: str, name: str, backend: str, bucket: Bucket, layers: int
) -> None:
    if name.startswith("v5e"):  # its 15.75 GiB hold no 8B model in bfloat16
        layers = min(layers, 12)
    mesh = mesh_of(platform, name)
    step = aot.compile_step(
        mesh, bucket=bucket, platform=platform, backend=backend, layers=layers
    )
    memory = step.compiled.memory_analysis()
    assert aot.pool_sized_copies(step) == []
    assert memory.alias_size_in_bytes >= step.pool_bytes
    assert memory.temp_size_in_bytes < 400 * 2**20  # logits and activations
    assert aot.control_flow(step.compiled) == []


@TARGETS
@pytest.mark.parametrize("bucket", [DECODE, MIXED], ids=["decode", "mixed"])
def test_nothing_that_a_step_dispatches_branches_or_loops(
    platform: str, name: str, backend: str, bucket: Bucket
) -> None:
    mesh = mesh_of(platform, name)
    programs = aot.compile_rest(mesh, bucket=bucket, platform=platform, backend=backend)
    assert len(programs) == 8 + (not bucket.is_decode)
    for program in programs:
        assert aot.control_flow(program) == []


def attention(mesh: Any, *, head: int, kv: str, decode: bool, backend: str) -> Any:
    """One compiled call; raises where a kernel does not fit the device."""
    shape = jax.ShapeDtypeStruct
    pool_shape = (2048, 4, 2, 8, 16, head)
    pool: Any = shape(pool_shape, jnp.dtype(kv))
    if pool.dtype.itemsize == 1:
        scales = shape(pool_shape[:4], jnp.float32)
        pool = QuantizedPool(pages=pool, scales=scales)
    q_dtype = jnp.float32 if kv == "float32" else jnp.bfloat16
    arguments = {
        "q": shape((64 if decode else 512, 32, head), q_dtype),
        "pool": pool,
        "layer": shape((), jnp.int32),
        "page_table": shape((64, 256), jnp.int32),
        "kv_lens": shape((64,), jnp.int32),
        "cu_q_lens": shape((65,), jnp.int32),
    }
    call = functools.partial(
        ragged_paged_attention,
        sm_scale=0.1,
        soft_cap=20.0,
        decode=decode,
        backend=backend,
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(call).lower(**aot.place(arguments, mesh)).compile()


@pytest.mark.parametrize("decode", [True, False], ids=["decode", "mixed"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kv", ["float32", "bfloat16", "int8", "float8_e4m3fn"])
@pytest.mark.parametrize(
    ("platform", "name"),
    [
        *each(("gpu", "h100"), ("gpu", "a100"), marks=gpu),
        *each(("tpu", "v6e:2x2"), ("tpu", "v5e:2x2"), marks=[*tpu, pytest.mark.slow]),
    ],
)
def test_every_attention_kernel_fits_its_device(
    platform: str, name: str, kv: str, head: int, decode: bool
) -> None:
    if name == "a100" and kv == "float8_e4m3fn":
        pytest.skip("refused, see test_lowering")
    if platform == "tpu" and head % 128:
        pytest.skip("refused, see test_backends")
    backend = "triton" if platform == "gpu" else "mosaic_tpu"
    mesh = mesh_of(platform, name)
    compiled = attention(mesh, head=head, kv=kv, decode=decode, backend=backend)
    # Temporary memory is the packed queries or partial softmaxes, never the pool.
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20


@TARGETS
def test_pages_are_moved_and_written_in_place(
    platform: str, name: str, backend: str
) -> None:
    del backend
    mesh = mesh_of(platform, name)
    shape = (4096, 32, 2, 8, 16, 128)
    page_bytes = 2 * 2**20
    pool = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((16,), jnp.int32)
    pages = jax.ShapeDtypeStruct((16, *shape[1:]), jnp.bfloat16)
    kv = jax.ShapeDtypeStruct((64, 8, 128), jnp.bfloat16)
    slots = jax.ShapeDtypeStruct((64,), jnp.int32)
    write = jax.jit(functools.partial(write_kv, layer=3), donate_argnums=0)
    quantized = QuantizedPool(
        pages=jax.ShapeDtypeStruct(shape, jnp.int8),
        scales=jax.ShapeDtypeStruct(shape[:4], jnp.float32),
    )
    cases: list[Any] = [
        (gather_pages, (pool, ids), False),
        (scatter_pages, (pool, ids, pages), True),
        (lambda *a: write(*a[:3], page_slots=a[3]), (pool, kv, kv, slots), True),
        (lambda *a: write(*a[:3], page_slots=a[3]), (quantized, kv, kv, slots), True),
    ]
    for function, arguments, is_donated in cases:
        donated = (0,) if is_donated else ()
        jitted = jax.jit(function, donate_argnums=donated)
        compiled = jitted.lower(*aot.place(arguments, mesh)).compile()
        memory = compiled.memory_analysis()
        assert memory.temp_size_in_bytes <= 24 * page_bytes, memory
        if is_donated:
            assert memory.alias_size_in_bytes >= 4096 * page_bytes // 2, memory


@pytest.mark.aot_gpu
@pytest.mark.skipif(not has("triton"), reason="run `make aot`")
@pytest.mark.parametrize("decode", [True, False], ids=["decode", "mixed"])
@pytest.mark.parametrize(("capability", "name"), [(80, "a100"), (90, "h100")])
def test_tritons_own_compiler_makes_machine_code(
    tmp_path: Path, capability: int, name: str, decode: bool
) -> None:
    """Keys come by asynchronous copies; prefill on Hopper uses wgmma."""
    from tests.pallas_kernels.triton_ir import compile_ir, kernels_of  # noqa: PLC0415

    assert shutil.which("true")  # a sane PATH for the assembler
    kernels = kernels_of(name, decode=decode)
    assert len(kernels) == (1 if decode else 2)
    for kernel in kernels:
        ptx, cubin = compile_ir(kernel, capability=capability, folder=tmp_path)
        assert len(cubin) > 1000
        assert "cp.async" in ptx
        wants_wgmma = capability == 90 and "prefill" in kernel.name
        assert ("wgmma.mma_async" if wants_wgmma else "mma.sync") in ptx


def test_the_model_is_the_8b_one() -> None:
    assert dataclasses.asdict(aot.nnx_config(32)) == dataclasses.asdict(aot.LLAMA_8B)

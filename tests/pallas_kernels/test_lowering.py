"""Every body lowers for CUDA and TPU devices on a machine that has neither."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from mell_jax.pallas_kernels import QuantizedPool, ragged_paged_attention, write_kv
from tests.pallas_kernels.cases import HEADS
from tests.pallas_kernels.devices import (
    A100,
    H100,
    V5E,
    V6E,
    lowering_platform,
    tracing_for,
)

ROWS, KV_HEADS, PAGES, LAYERS, TABLE = 16, 8, 512, 4, 128
PAIRS = [  # of q and KV pages
    ("float32", "float32"),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "int8"),
    ("bfloat16", "float8_e4m3fn"),
]
TYPES = pytest.mark.parametrize("dtypes", PAIRS, ids="-".join)
SLOW = pytest.mark.slow
QUICK = {  # each head size, type and device in some case; the others are slow
    (H100, 64): PAIRS[1:2],
    (H100, 80): PAIRS[3:],
    (H100, 96): PAIRS[:1],
    (H100, 128): PAIRS,
    (H100, 256): PAIRS[2:3],
    (A100, 80): PAIRS[2:3],
    (A100, 128): PAIRS[1:2],
    (A100, 256): PAIRS[::3],
    (V5E, 80): PAIRS[1:2],
    (V5E, 128): PAIRS[1:3],
    (V6E, 256): PAIRS[::3],
}


def each(devices: Iterable[AbstractDevice]) -> Any:
    """Every device, head size and pair of types, most of them marked slow."""
    return pytest.mark.parametrize(
        ("device", "head", "dtypes"),
        [
            pytest.param(
                device,
                head,
                dtypes,
                marks=() if dtypes in QUICK.get((device, head), ()) else SLOW,
                id=f"{device.device_kind}-{head}-{'-'.join(dtypes)}",
            )
            for device in devices
            for head in HEADS
            for dtypes in PAIRS
        ],
    )


def by_kind(value: object) -> str:
    return str(value.device_kind if isinstance(value, AbstractDevice) else value)


def lowered(
    device: AbstractDevice,
    *,
    head: int,
    dtypes: tuple[str, str],
    decode: bool,
    backend: str | None,
    pool_head: int | None = None,
    **options: Any,
) -> str:
    """The program of one call, as text."""
    shape = jax.ShapeDtypeStruct
    pool_shape = (PAGES, LAYERS, 2, KV_HEADS, 16, pool_head or head)
    pages = shape(pool_shape, jnp.dtype(dtypes[1]))
    scales = shape(pool_shape[:4], jnp.float32)
    is_quantized = pages.dtype.itemsize == 1
    pool = QuantizedPool(pages=pages, scales=scales) if is_quantized else pages
    tokens = ROWS if decode else 256
    call = functools.partial(
        ragged_paged_attention, sm_scale=0.1, decode=decode, backend=backend, **options
    )
    with tracing_for(device):
        traced = jax.jit(call).trace(
            shape((tokens, 4 * KV_HEADS, head), jnp.dtype(dtypes[0])),
            pool,
            layer=shape((), jnp.int32),
            page_table=shape((ROWS, TABLE), jnp.int32),
            kv_lens=shape((ROWS,), jnp.int32),
            cu_q_lens=shape((ROWS + 1,), jnp.int32),
        )
        platform = lowering_platform(device)
        return str(traced.lower(lowering_platforms=(platform,)).as_text())


@each((H100, A100))
def test_triton_lowers(
    device: AbstractDevice, head: int, dtypes: tuple[str, str]
) -> None:
    """A mixed batch has both kernels."""
    call = functools.partial(
        lowered, device, head=head, dtypes=dtypes, decode=False, backend="triton"
    )
    if device is A100 and dtypes[1] == "float8_e4m3fn":
        with pytest.raises(ValueError, match=r"8\.9 .* these work: xla"):
            call()
        return
    text = call()
    assert "mell_attention_decode" in text and "mell_attention_prefill" in text


@each((V5E, V6E))
def test_mosaic_tpu_lowers(
    device: AbstractDevice, head: int, dtypes: tuple[str, str]
) -> None:
    """A mixed batch has both kernels. The pool's heads are padded to whole vectors."""
    options: Any = {"head": head, "dtypes": dtypes, "decode": False}
    options["pool_head"] = -(-head // 128) * 128
    text = lowered(device, backend="mosaic_tpu", **options)
    assert text.count("tpu_custom_call") == 2


GPU_CALLS = [("triton", device, head) for device in (A100, H100) for head in HEADS]
TPU_CALLS = [("mosaic_tpu", device, head) for device in (V5E, V6E) for head in HEADS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "device", "head"),
    [
        *GPU_CALLS,
        ("triton", H100, 8),
        ("mosaic_gpu", H100, 64),
        ("mosaic_gpu", H100, 128),
        *TPU_CALLS,
    ],
    ids=by_kind,
)
@TYPES
@pytest.mark.parametrize("decode", [True, False], ids=["decode", "mixed"])
def test_every_combination_lowers_with_window_and_cap(
    backend: str,
    device: AbstractDevice,
    head: int,
    dtypes: tuple[str, str],
    decode: bool,
) -> None:
    if backend == "mosaic_gpu" and dtypes != PAIRS[1]:
        pytest.skip("refused, see test_backends")
    if device is A100 and dtypes[1] == "float8_e4m3fn":
        pytest.skip("refused, see test_triton_lowers")
    pool_head = -(-head // 128) * 128 if backend == "mosaic_tpu" else head
    options: Any = {"dtypes": dtypes, "decode": decode, "window": 100, "soft_cap": 5.0}
    text = lowered(device, head=head, pool_head=pool_head, backend=backend, **options)
    assert "custom_call" in text


@pytest.mark.parametrize(
    ("backend", "device"),
    [
        ("triton", H100),
        ("mosaic_gpu", H100),
        pytest.param("triton", A100, marks=SLOW),
        pytest.param("mosaic_tpu", V5E, marks=SLOW),
        ("mosaic_tpu", V6E),
    ],
    ids=by_kind,
)
@pytest.mark.parametrize("decode", [True, False], ids=["decode", "mixed"])
def test_a_sharded_step_lowers_with_its_pool_donated(
    backend: str, device: AbstractDevice, decode: bool
) -> None:
    """Of four devices, each with two of eight KV heads."""
    mesh = AbstractMesh(
        (4,), ("tp",), axis_types=(AxisType.Auto,), abstract_device=device
    )
    pool_spec, heads_spec = P(None, None, None, "tp"), P(None, "tp")

    def step(pool: jax.Array, *batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        q, k, v, page_slots, page_table, kv_lens, cu_q_lens = batch
        pool = write_kv(pool, k, v, layer=1, page_slots=page_slots)
        out = ragged_paged_attention(
            q,
            pool,
            layer=1,
            page_table=page_table,
            kv_lens=kv_lens,
            cu_q_lens=cu_q_lens,
            sm_scale=0.1,
            decode=decode,
            backend=backend,
        )
        return pool, out

    sharded = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(pool_spec, heads_spec, heads_spec, heads_spec, P(), P(), P(), P()),
        out_specs=(pool_spec, heads_spec),
        check_vma=False,
    )
    shape = jax.ShapeDtypeStruct
    tokens = ROWS if decode else 256
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(sharded, donate_argnums=0).trace(
            shape((PAGES, LAYERS, 2, KV_HEADS, 16, 128), jnp.bfloat16),
            shape((tokens, 4 * KV_HEADS, 128), jnp.bfloat16),
            shape((tokens, KV_HEADS, 128), jnp.bfloat16),
            shape((tokens, KV_HEADS, 128), jnp.bfloat16),
            shape((tokens,), jnp.int32),
            shape((ROWS, TABLE), jnp.int32),
            shape((ROWS,), jnp.int32),
            shape((ROWS + 1,), jnp.int32),
        )
        platform = lowering_platform(device)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    mark = "tpu_custom_call" if backend == "mosaic_tpu" else backend
    assert mark in text
    assert f"tensor<{PAGES}x{LAYERS}x2x2x16x128xbf16>" in text  # a share of the pool
    assert "jax.buffer_donor" in text or "tf.aliasing_output" in text


@pytest.mark.parametrize("head", [64, 128])
def test_mosaic_gpu_lowers(head: int) -> None:
    pytest.importorskip("absl")
    options: Any = {"head": head, "dtypes": PAIRS[1], "decode": True}
    assert "mosaic_gpu" in lowered(H100, backend="mosaic_gpu", **options)
    text = lowered(H100, backend="mosaic_gpu", window=100, soft_cap=5.0, **options)
    assert "mosaic_gpu" in text
    options["decode"] = False
    text = lowered(H100, backend="mosaic_gpu", **options)
    assert "mosaic_gpu" in text and "triton" in text


@pytest.mark.parametrize(
    ("device", "decode"),
    [
        (H100, True),
        (V6E, False),
        pytest.param(H100, False, marks=SLOW),
        pytest.param(V6E, True, marks=SLOW),
    ],
    ids=by_kind,
)
def test_the_reference_lowers(device: AbstractDevice, decode: bool) -> None:
    text = lowered(device, head=80, dtypes=PAIRS[2], decode=decode, backend="xla")
    assert "custom_call" not in text


@pytest.mark.parametrize(
    ("device", "head", "mark"),
    [(A100, 80, "triton"), (H100, 64, "triton"), (V6E, 128, "tpu_custom_call")],
)
def test_without_a_name_the_platforms_body_is_taken(
    device: AbstractDevice, head: int, mark: str
) -> None:
    options: Any = {"head": head, "dtypes": PAIRS[1], "decode": True}
    assert mark in lowered(device, backend=None, window=100, soft_cap=5.0, **options)


@pytest.mark.parametrize("device", [A100, V5E], ids=by_kind)
def test_without_a_name_the_reference_steps_in(device: AbstractDevice) -> None:
    dtypes = ("bfloat16", "float8_e4m3fn")
    text = lowered(device, head=64, dtypes=dtypes, decode=True, backend=None)
    assert "custom_call" not in text

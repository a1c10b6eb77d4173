"""A body is chosen by device and call; a wish that cannot be granted says why."""

from dataclasses import replace

import jax
import pytest

from mell_jax.pallas_kernels.attention.backends import (
    Call,
    KernelTarget,
    choose_backend,
    current_target,
)
from tests.pallas_kernels.devices import H100, V6E, tracing_for

CPU = KernelTarget(platform="cpu", device_kind="cpu")
HOPPER = KernelTarget(platform="gpu", device_kind="NVIDIA H200")
AMPERE = KernelTarget(platform="gpu", device_kind="NVIDIA A100-PCIE-40GB")
TURING = KernelTarget(platform="gpu", device_kind="Tesla T4")
BLACKWELL = KernelTarget(platform="gpu", device_kind="NVIDIA B200")
TRILLIUM = KernelTarget(platform="tpu", device_kind="TPU v6 lite")
CALL = Call(
    q_dtype="bfloat16",
    kv_dtype="bfloat16",
    is_quantized=False,
    head=128,
    group=4,
    kv_heads=8,
    page_tokens=16,
    pool_bytes=2**34,
    table_entries=64 * 256,
    decode=True,
)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (CPU, "xla"),
        (HOPPER, "triton"),
        (AMPERE, "triton"),
        (BLACKWELL, "triton"),
        (TURING, "xla"),
        (TRILLIUM, "mosaic_tpu"),
    ],
)
def test_each_platform_has_its_body(target: KernelTarget, name: str) -> None:
    assert choose_backend(None, target=target, call=CALL) == name


@pytest.mark.parametrize(
    ("wanted", "target", "changes", "message"),
    [
        ("triton", CPU, {}, "'triton' runs on gpu only; on this device .cpu, cpu."),
        ("mosaic_tpu", HOPPER, {}, "runs on tpu only; .* triton, mosaic_gpu, xla"),
        ("mosaic_gpu", AMPERE, {}, "needs a Hopper GPU .* these work: triton, xla"),
        ("mosaic_gpu", HOPPER, {"kv_dtype": "int8"}, "needs bfloat16, not bfloat16 ov"),
        ("mosaic_gpu", HOPPER, {"head": 256}, "head size of 64 or 128, not 256"),
        ("mosaic_gpu", HOPPER, {"group": 65}, "not 16 and 65"),
        (
            "mosaic_gpu",
            HOPPER,
            {"page_tokens": 128},
            "at most 64 tokens and as many .* not 128 and 4",
        ),
        ("triton", TURING, {}, r"needs compute capability 8\.0; .*these work: xla$"),
        ("triton", HOPPER, {"head": 320}, "head size of 8 to 256 in steps of 8, not 3"),
        ("triton", HOPPER, {"page_tokens": 24}, "power of two .* not 24; .*work: xla$"),
        ("triton", AMPERE, {"kv_dtype": "float8_e4m3fn"}, r"8\.9 for float8_e4m3fn"),
        ("mosaic_tpu", TRILLIUM, {"head": 80}, "a multiple of 128 in the pool, not 80"),
        ("mosaic_tpu", TRILLIUM, {"table_entries": 10**6}, "too little for 1000000"),
        ("cuda", HOPPER, {}, "unknown backend 'cuda'; choose from mosaic_gpu, mosaic_"),
        (
            "triton",
            HOPPER,
            {"is_quantized": True, "kv_dtype": "int8", "pool_bytes": 3 * 2**30},
            "one-byte pool between 2 and 4 GiB",
        ),
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused_with_what_would_work(
    wanted: str, target: KernelTarget, changes: dict[str, object], message: str
) -> None:
    call = replace(CALL, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        choose_backend(wanted, target=target, call=call)


def test_an_interpreted_kernel_runs_anywhere() -> None:
    got = choose_backend("triton", target=CPU, call=CALL, interpret=True)
    assert got == "triton"


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="it can, by now")
def test_what_this_jax_cannot_interpret_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'mosaic_gpu' can be interpreted from jax 0"):
        choose_backend("mosaic_gpu", target=CPU, call=CALL, interpret=True)


def test_an_unknown_platform_is_refused() -> None:
    target = KernelTarget(platform="npu", device_kind="?")
    with pytest.raises(ValueError, match="no attention for platform 'npu'"):
        choose_backend(None, target=target, call=CALL)


def test_the_target_is_the_device_that_is_traced_for() -> None:
    assert current_target() == CPU
    with tracing_for(H100):
        kind = "NVIDIA H100 80GB HBM3"
        assert current_target() == KernelTarget(platform="gpu", device_kind=kind)
    with tracing_for(V6E):
        assert current_target().platform == "tpu"
    with jax.default_device(jax.devices()[3]):
        assert current_target() == CPU


def test_capabilities_come_from_the_kind_of_device() -> None:
    assert [t.capability for t in (AMPERE, HOPPER, BLACKWELL)] == [80, 90, 100]
    assert replace(HOPPER, device_kind="NVIDIA L40S").capability == 89
    assert replace(HOPPER, device_kind="NVIDIA GH200 480GB").capability == 90
    assert replace(HOPPER, device_kind="something new").capability == 80

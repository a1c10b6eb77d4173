import pytest

from benchmarks.gpu.roofline import (
    Cost,
    DeviceSpeeds,
    decode_cost,
    prefill_cost,
    speeds_of,
    token_bytes,
    weight_bytes,
)
from benchmarks.kernels.loads import LLAMA_8B

H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"


def test_an_8b_model_has_16_gb_of_weights_and_128_kib_a_token() -> None:
    assert weight_bytes(LLAMA_8B) == pytest.approx(16.06e9, rel=1e-3)
    assert token_bytes(LLAMA_8B) == 128 * 1024


@pytest.mark.parametrize(
    ("rows", "gigabytes", "device", "milliseconds", "tokens_per_s"),
    [
        (1, 16.2, H100, 4.8, 207),
        (1, 16.2, H200, 3.4, 296),
        (32, 20.4, H100, 6.1, 5_260),
        (32, 20.4, H200, 4.2, 7_550),
        (256, 50.4, H100, 15.0, 17_000),
        (256, 50.4, H200, 10.5, 24_400),
    ],
)
def test_decoding_at_1024_tokens_is_bound_by_bandwidth(
    rows: int, gigabytes: float, device: str, milliseconds: float, tokens_per_s: float
) -> None:
    cost = decode_cost(LLAMA_8B, rows=rows, context=1024)
    speeds = speeds_of(device)
    assert speeds is not None
    seconds = cost.seconds(speeds)
    assert cost.bytes / 1e9 == pytest.approx(gigabytes, rel=3e-3)
    assert 1e3 * seconds == pytest.approx(milliseconds, rel=1e-2)
    assert rows / seconds == pytest.approx(tokens_per_s, rel=3e-3)


def test_the_matmuls_of_256_rows_take_less_than_their_reads() -> None:
    cost = decode_cost(LLAMA_8B, rows=256, context=1024)
    assert 1e3 * cost.flops / 989e12 == pytest.approx(4.2, rel=2e-2)


def test_a_prompt_is_bound_by_its_matmuls_and_attention() -> None:
    """6.98e9 weights in layers; 2,098,176 pairs at 4 x 32 x 32 x 128 operations."""
    speeds = speeds_of(H200)
    assert speeds is not None
    two = prefill_cost(LLAMA_8B, tokens=2048, chunk=2048)
    assert two.flops == pytest.approx(28.59e12 + 1.10e12 + 1.05e9, rel=1e-3)
    assert two.bytes == weight_bytes(LLAMA_8B)
    assert 1e3 * two.seconds(speeds) == pytest.approx(30.0, rel=2e-3)
    eight = prefill_cost(LLAMA_8B, tokens=8192, chunk=2048)
    assert eight.bytes == 4 * weight_bytes(LLAMA_8B) + (2 + 4 + 6) * 1024 * 2**17
    assert eight.flops == pytest.approx(4 * 28.59e12 + 17.59e12, rel=1e-3)


def test_what_takes_longest_decides() -> None:
    speeds = DeviceSpeeds(bytes_per_s=10.0, flops_per_s=100.0)
    assert Cost(bytes=20.0, flops=100.0).seconds(speeds) == 2.0
    assert Cost(bytes=20.0, flops=300.0).seconds(speeds) == 3.0


@pytest.mark.parametrize(
    ("kind", "terabytes"),
    [
        ("NVIDIA H100 PCIe", 2.0),
        ("NVIDIA H100 NVL", 3.9),
        ("NVIDIA A100-SXM4-80GB", 2.039),
        ("NVIDIA A100 80GB PCIe", 1.935),
        ("NVIDIA A100-SXM4-40GB", 1.555),
    ],
)
def test_a_device_is_known_by_its_name(kind: str, terabytes: float) -> None:
    speeds = speeds_of(kind)
    assert speeds is not None
    assert speeds.bytes_per_s == pytest.approx(terabytes * 1e12)


def test_an_unknown_device_has_no_roofline() -> None:
    assert speeds_of("cpu") is None

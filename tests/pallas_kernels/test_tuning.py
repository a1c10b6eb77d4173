"""Sizes come from the data of a device kind and are fitted to the shape."""

from dataclasses import replace

import pytest

from mell_jax.pallas_kernels.attention.tuning import (
    AttentionProblem,
    decode_sizes,
    for_device,
    mosaic_gpu_sizes,
    mosaic_tpu_sizes,
    prefill_sizes,
)

H200, A100 = "NVIDIA H200", "NVIDIA A100-SXM4-80GB"
LLAMA = AttentionProblem(
    tiles=64,
    kv_heads=8,
    group=4,
    head=128,
    kv_bytes=2,
    q_bytes=2,
    table_tokens=4096,
)


def test_the_longest_name_that_a_device_kind_starts_with_wins() -> None:
    assert for_device("triton", A100)["cores"] == 108
    assert for_device("triton", "NVIDIA H100 80GB HBM3")["cores"] == 132
    assert for_device("triton", "NVIDIA L40S")["cores"] == 142  # and not the L4's
    assert for_device("triton", "NVIDIA L40S")["shared_bytes"] == 101_376  # default


@pytest.mark.parametrize(
    ("rows", "context", "splits"),
    [(64, 4096, 1), (8, 32_768, 8), (1, 131_072, 32), (1, 512, 2), (1, 16, 1)],
)
def test_few_rows_are_split_until_the_device_is_full_or_shares_too_small(
    rows: int, context: int, splits: int
) -> None:
    problem = replace(LLAMA, tiles=rows, table_tokens=context)
    assert decode_sizes(problem, device_kind=H200).num_splits == splits


def test_query_heads_of_one_kv_head_share_a_tile() -> None:
    assert decode_sizes(LLAMA, device_kind=H200).rows == 16
    wide = replace(LLAMA, group=24)
    assert decode_sizes(wide, device_kind=H200).rows == 32
    sizes = prefill_sizes(LLAMA, device_kind=H200)
    assert (sizes.tile_tokens, sizes.rows) == (32, 128)
    odd = prefill_sizes(replace(LLAMA, group=3), device_kind=H200)
    assert (odd.tile_tokens, odd.rows) == (42, 128)


def test_blocks_shrink_until_they_fit_the_shared_memory() -> None:
    large = replace(LLAMA, head=256, kv_bytes=4, q_bytes=4)
    sizes = decode_sizes(large, device_kind=A100)
    assert (sizes.block_tokens, sizes.num_stages) == (32, 2)
    assert prefill_sizes(large, device_kind=A100).rows == 32


def test_tpu_blocks_are_bounded_in_bytes() -> None:
    device = {"device_kind": "TPU v6 lite", "page_tokens": 16}
    sizes = mosaic_tpu_sizes(group=4, page_bytes=2**16, **device)  # type: ignore[arg-type]
    assert (sizes.tile_tokens, sizes.block_pages) == (32, 16)
    sizes = mosaic_tpu_sizes(group=40, page_bytes=2**20, **device)  # type: ignore[arg-type]
    assert (sizes.tile_tokens, sizes.block_pages) == (8, 4)


def test_hopper_shares_are_at_least_four_blocks() -> None:
    sizes = mosaic_gpu_sizes(device_kind=H200, programs=8, table_tokens=1024)
    assert (sizes.num_splits, sizes.num_slots) == (4, 4)

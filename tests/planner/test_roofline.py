"""Profiles out of data sheets, against what can be worked out by hand."""

import pytest

from mell_jax.planner.devices import Device
from mell_jax.planner.roofline import Assumptions, capacity_tokens, profile_of
from mell_jax.planner.shape import ModelShape

SHAPE = ModelShape(  # 1,000 parameters, of them 100 in each table
    name="small",
    parameters=1000,
    embedding=100,
    head=100,
    hidden_size=10,
    context_tokens=1024,
    num_kv_heads=1,
    head_dim=5,
    windows=(None, 8),
    attention_width=(10, 10),
    num_heads=(2,),
    mlp_sizes=(16,),
)
DEVICE = Device(
    kind="D",
    memory_bytes=6000.0,
    bytes_per_s=1000.0,
    flops_per_s=10_000.0,
    link_bytes_per_s=100.0,
    price_per_hour=1.0,
)
FULL = Assumptions(
    bandwidth_share=1.0,
    compute_share=1.0,
    sync_s=0.0,
    kv_memory_fraction=1.0,
    token_budget=20,
    max_rows=10,
)


def test_a_decode_step_reads_weights_and_pages() -> None:
    profile = profile_of(SHAPE, device=DEVICE, devices=1, assumed=FULL)
    assert profile.step_time.fixed_s == pytest.approx(1.8)  # 900 numbers of 2 bytes
    assert profile.kv_bytes_per_token == 40
    assert profile.step_time.page_s == pytest.approx(16 * 40 / 1000)
    assert profile.capacity_tokens == (6000 - 2000) // 40


def test_rows_cost_what_their_products_take_beyond_the_reading() -> None:
    # 10 rows of 2 x 900 operations take 1.8 s: no more than the weights.
    profile = profile_of(SHAPE, device=DEVICE, devices=1, assumed=FULL)
    assert profile.step_time.row_s == 0
    more = Assumptions(
        bandwidth_share=1.0,
        compute_share=0.5,
        sync_s=0.0,
        kv_memory_fraction=1.0,
        token_budget=20,
        max_rows=10,
    )
    slow = profile_of(SHAPE, device=DEVICE, devices=1, assumed=more)
    step_s = slow.decode_s(rows=10, pages=0)
    assert step_s == pytest.approx(3.6)  # as long as the products of 10 rows


def test_prefill_multiplies_by_the_layers_and_sees_what_came_before() -> None:
    profile = profile_of(SHAPE, device=DEVICE, devices=1, assumed=FULL)
    # 800 parameters in layers, and 8 tokens seen through 10 channels, twice 2 each.
    assert profile.prefill_token_s == pytest.approx((1600 + 320) / 10_000)
    assert profile.prefill_pair_s == pytest.approx(1000 * 40 / 10_000)


def test_several_devices_share_the_work_and_add_up_over_links() -> None:
    profile = profile_of(SHAPE, device=DEVICE, devices=2, assumed=FULL)
    sums = 5 * (2 * 1 / 2 * 20) / 100  # 5 sums of 10 numbers, each sent once
    assert profile.step_time.fixed_s == pytest.approx(0.9)
    assert profile.step_time.row_s == pytest.approx(sums)
    assert profile.prefill_token_s == pytest.approx(1920 / 20_000 + sums)
    assert profile.kv_bytes_per_token == 80  # its one KV head lies on both
    assert profile.capacity_tokens == (12_000 - 2000) // 80
    assert profile.step_time.page_s == pytest.approx(16 * 80 / 2000)
    assert profile.link_bytes_per_s == 200
    assert profile.plans_ahead  # as `mell-serve` does


def test_weights_that_do_not_fit_leave_no_room() -> None:
    small = Device(
        kind="D",
        memory_bytes=1900.0,
        bytes_per_s=1.0,
        flops_per_s=1.0,
        link_bytes_per_s=1.0,
        price_per_hour=1.0,
    )
    assert capacity_tokens(SHAPE, device=small, devices=1, assumed=FULL) == 0
    with pytest.raises(ValueError, match="capacity_tokens"):
        profile_of(SHAPE, device=small, devices=1, assumed=FULL)


def test_shares_are_parts_of_one() -> None:
    for name in ("bandwidth_share", "compute_share", "kv_memory_fraction"):
        with pytest.raises(ValueError, match=rf"{name} must be in \(0, 1\], got 0"):
            Assumptions(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_rows must be >= 1, got 0"):
        Assumptions(max_rows=0)
    with pytest.raises(ValueError, match=r"token_budget must be >= max_rows \(256\)"):
        Assumptions(token_budget=255)


def test_a_step_full_of_prompts_keeps_to_its_time() -> None:
    def budget(step_s: float) -> int:
        assumed = Assumptions(
            bandwidth_share=1.0, compute_share=1.0, step_s=step_s, max_rows=4
        )
        profile = profile_of(SHAPE, device=DEVICE, devices=1, assumed=assumed)
        return profile.token_budget

    # 1.8 s for the weights and 0.192 s for a token.
    assert budget(1.8 + 8 * 0.193) == 8
    assert budget(1.8 + 8 * 0.191) == 4
    assert budget(0.1) == 4  # each row needs a token
    assert budget(1000.0) == 2048

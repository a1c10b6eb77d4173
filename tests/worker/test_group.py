"""Which part of what lies on which device."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.pool import free_bytes, make_pool
from mell_jax.worker.step import put_weights, split_model

FIELDS: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_layers": 1,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "has_qk_norm": True,
}
MODEL = uniform_config(**FIELDS)


def group(count: int, *, model: ModelConfig = MODEL) -> DeviceGroup:
    return DeviceGroup.of_model(model, devices=jax.devices()[:count])


def parts_on_devices(group: DeviceGroup, *, model: ModelConfig = MODEL):
    """Shape of the part of each parameter that one device holds, by its path."""
    parts, weights = split_model(*nnx.split(Decoder(model, rngs=nnx.Rngs(0))))
    put = put_weights(weights, paths=parts.paths, group=group)
    return {
        ".".join(map(str, path)).removeprefix("layers.0."): (
            array.sharding.shard_shape(array.shape)
        )
        for path, array in zip(parts.paths, put, strict=True)
    }


def test_two_devices_hold_half_of_the_heads_the_mlp_and_the_vocabulary() -> None:
    assert parts_on_devices(group(2)) == {
        "embed.embedding": (32, 16),  # of 64 tokens
        "attention.q_proj.kernel": (16, 64),  # two of four heads of 32
        "attention.q_proj.bias": (64,),
        "attention.k_proj.kernel": (16, 32),  # one of two
        "attention.k_proj.bias": (32,),
        "attention.v_proj.kernel": (16, 32),
        "attention.v_proj.bias": (32,),
        "attention.q_norm.scale": (32,),
        "attention.k_norm.scale": (32,),
        "attention.o_proj.kernel": (64, 16),
        "attention.o_proj.bias": (16,),
        "input_norm.scale": (16,),
        "mlp_norm.scale": (16,),
        "mlp.gate_proj.kernel": (16, 12),  # of 24
        "mlp.gate_proj.bias": (12,),
        "mlp.up_proj.kernel": (16, 12),
        "mlp.up_proj.bias": (12,),
        "mlp.down_proj.kernel": (12, 16),
        "mlp.down_proj.bias": (16,),
        "norm.scale": (16,),
        "lm_head.kernel": (16, 32),
    }


def test_four_devices_of_a_model_with_two_kv_heads_hold_each_of_them_twice() -> None:
    four = group(4)
    assert (four.copies, four.kv_shards) == (2, 2)
    held = parts_on_devices(four)
    assert held["attention.q_proj.kernel"] == (16, 32)  # one of four heads
    assert held["attention.k_proj.kernel"] == (16, 32)  # one of two
    pool = make_pool(MODEL, num_pages=3, dtype=jnp.dtype("float32"), group=four)
    assert pool.shape == (3, 2, 2 * 16, 32)
    rows = {
        shard.device.id: shard.index[2].indices(32)[:2]
        for shard in pool.addressable_shards
    }
    assert rows == {0: (0, 16), 1: (0, 16), 2: (16, 32), 3: (16, 32)}
    np.testing.assert_array_equal(pool, np.zeros((3, 2, 32, 32)))


def test_a_vocabulary_that_cannot_be_cut_is_held_whole() -> None:
    model = dataclasses.replace(MODEL, vocab_size=101)
    held = parts_on_devices(group(2, model=model), model=model)
    assert held["embed.embedding"] == (101, 16)
    assert held["lm_head.kernel"] == (16, 101)


def test_one_device_is_a_group_without_a_layout() -> None:
    one = group(1)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert one.layout is None
    assert one.pool_sharding == one.replicated == device
    assert one.weight_sharding(("embed", "embedding"), (64, 16)) == device


def test_groups_of_one_size_share_a_layout() -> None:
    other = DeviceGroup.of_model(MODEL, devices=jax.devices()[4:6])
    assert group(2).layout == other.layout != group(4).layout
    assert group(2).pool_sharding != other.pool_sharding


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        ({}, 8, "num_heads is a multiple of 8, this one's is 4"),
        ({"intermediate_size": 25}, 2, "intermediate_size is a multiple of 2"),
        (
            {"num_heads": 12, "num_kv_heads": 6},
            4,
            "num_kv_heads is a multiple or a divisor of 4, this one's is 6: use anoth",
        ),
    ],
)
def test_a_model_that_cannot_be_cut_is_refused(changes, count, message) -> None:
    with pytest.raises(ValueError, match=message):
        group(count, model=uniform_config(**{**FIELDS, **changes}))


def test_a_device_counts_once() -> None:
    with pytest.raises(ValueError, match="each only once"):
        DeviceGroup.of_model(MODEL, devices=[jax.devices()[0]] * 2)
    with pytest.raises(ValueError, match="at least one device"):
        DeviceGroup.of_model(MODEL, devices=[])


def test_copies_of_pages_take_host_memory_twice() -> None:
    assert 0.4 < free_bytes(group(4)) / free_bytes(group(2)) < 0.6

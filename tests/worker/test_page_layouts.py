"""Pages keep their bytes when they go from one group of devices to another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.pool import make_pool
from tests.toy import toy_config

MODEL = toy_config(heads=4, kv_heads=4)
FEW_HEADS = toy_config(heads=4, kv_heads=2)
TAKEN, GIVEN = [3, 1, 6], [2, 5, 4]
"""Pages at the source, and where they go at the destination."""

gather = jax.jit(lambda pool, ids: pool[ids])


@functools.partial(jax.jit, donate_argnums=0)
def scatter(pool: jax.Array, ids: jax.Array, pages: jax.Array) -> jax.Array:
    return pool.at[ids].set(pages)


@pytest.mark.parametrize(
    ("model", "source", "destination"),
    [
        pytest.param(MODEL, (0, 1), (2,), id="two devices to one"),
        pytest.param(MODEL, (0,), (1, 2), id="one to two"),
        pytest.param(MODEL, (0, 1), (2, 3), id="two to two others"),
        pytest.param(MODEL, (0, 1), (2, 3, 4, 5), id="two to four"),
        pytest.param(MODEL, (0, 1), (1, 2), id="two to two that overlap"),
        pytest.param(FEW_HEADS, (0, 1, 2, 3), (4,), id="copied heads to one"),
        pytest.param(FEW_HEADS, (0,), (4, 5, 6, 7), id="one to copied heads"),
    ],
)
def test_moved_pages_are_the_same_bytes(model, source, destination) -> None:
    here, there = (
        DeviceGroup.of_model(model, devices=[jax.devices()[i] for i in ids])
        for ids in (source, destination)
    )
    old = make_pool(model, num_pages=7, dtype=jnp.dtype("float32"), group=here)
    values = np.random.default_rng(0).standard_normal(old.shape).astype(np.float32)
    old = jax.device_put(values, here.pool_sharding)
    new = make_pool(model, num_pages=8, dtype=jnp.dtype("float32"), group=there)

    pages = gather(old, np.array(TAKEN))  # [n, 2L, KS, H]
    assert pages.sharding.is_equivalent_to(here.pool_sharding, pages.ndim)
    moved = jax.device_put(pages, there.pool_sharding)
    new = scatter(new, np.array(GIVEN), moved)

    assert new.sharding == there.pool_sharding
    expected = np.zeros(new.shape, np.float32)
    expected[GIVEN] = values[TAKEN]
    np.testing.assert_array_equal(new, expected)
    for shard in new.addressable_shards:  # each copy of a head, too
        np.testing.assert_array_equal(shard.data, expected[shard.index])

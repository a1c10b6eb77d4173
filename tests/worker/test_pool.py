"""How many pages, of which type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.models.uniform import uniform_config
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.pool import (
    check_pool_dtype,
    choose_num_pages,
    free_bytes,
    make_pool,
    page_bytes,
    pool_shape,
)

LLAMA_8B = uniform_config(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    max_position_embeddings=131072,
)
TINY = uniform_config(
    vocab_size=10,
    hidden_size=32,
    intermediate_size=32,
    num_layers=2,
    num_heads=1,
    num_kv_heads=1,
    head_dim=32,
    max_position_embeddings=64,
)


def test_a_page_of_an_8b_model_is_two_mebibytes() -> None:
    assert page_bytes(LLAMA_8B, dtype=jnp.dtype("bfloat16")) == 2 * 2**20
    assert pool_shape(LLAMA_8B, num_pages=7) == (7, 2 * 32, 8 * 16, 128)


def test_a_pool_is_zeros_on_its_device() -> None:
    device = jax.devices()[3]
    group = DeviceGroup.of_model(TINY, devices=[device])
    pool = make_pool(TINY, num_pages=3, dtype=jnp.dtype("float32"), group=group)
    assert pool.devices() == {device}
    np.testing.assert_array_equal(pool, np.zeros((3, 4, 16, 32)))


def test_pages_fill_the_budget_but_not_beyond_what_rows_can_use() -> None:
    size = page_bytes(TINY, dtype=jnp.dtype("float32"))
    limits = {"dtype": jnp.dtype("float32"), "max_tokens": 64, "max_rows": 8}
    assert choose_num_pages(TINY, budget_bytes=20 * size, **limits) == 20
    assert choose_num_pages(TINY, budget_bytes=900 * size, **limits) == 8 * 4 + 1
    with pytest.raises(ValueError, match="one sequence of 64 tokens needs 5"):
        choose_num_pages(TINY, budget_bytes=4 * size, **limits)


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="in place since jax 0.11")
def test_a_pool_whose_writes_copy_it_is_refused() -> None:
    with pytest.raises(ValueError, match="use float32"):
        check_pool_dtype(jnp.dtype("bfloat16"), platform="cpu")
    check_pool_dtype(jnp.dtype("bfloat16"), platform="gpu")


def test_a_cpu_leaves_most_of_the_memory_to_others() -> None:
    total = 0
    with open("/proc/meminfo") as file:  # MemTotal is the first line, in KiB
        total = int(file.readline().split()[1]) * 1024
    assert 0 < free_bytes(DeviceGroup(devices=(jax.devices()[0],))) < total / 3

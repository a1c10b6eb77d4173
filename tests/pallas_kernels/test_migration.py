"""Pages travel whole: the same bits arrive, in place, and nothing else changes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mell_jax.pallas_kernels import (
    QuantizedPool,
    checksum_pages,
    gather_pages,
    make_quantized_pool,
    scatter_pages,
)

SHAPE = (6, 3, 2, 2, 16, 32)  # [P, L, 2, K, S, H]


def random_pool(seed: int, dtype: str = "float32") -> jax.Array:
    values = np.random.default_rng(seed).normal(size=SHAPE)
    return jnp.asarray(values, jnp.float32).astype(dtype)


def ids(*values: int) -> jax.Array:
    return jnp.array(values, jnp.int32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "float8_e4m3fn"])
def test_pages_arrive_where_they_are_sent_and_nowhere_else(dtype: str) -> None:
    source, target = random_pool(0, dtype), random_pool(1, dtype)
    want = np.array(target)
    want[[1, 4]] = np.asarray(source)[[5, 2]]
    pages = gather_pages(source, ids(5, 2))
    got = scatter_pages(target, ids(1, 4), pages)
    np.testing.assert_array_equal(np.asarray(got), want)


def test_padding_ids_leave_the_scratch_page_alone() -> None:
    source, target = random_pool(0), random_pool(1)
    want = np.array(target)
    want[3] = np.asarray(source)[2]
    pages = gather_pages(source, ids(2, 0, 0, 0))
    got = scatter_pages(target, ids(3, 0, 0, 0), pages)
    np.testing.assert_array_equal(np.asarray(got), want)


def test_a_quantised_pool_takes_its_scales_along() -> None:
    pages = jnp.arange(6 * 192 * 32, dtype=jnp.int32).reshape(SHAPE).astype(jnp.int8)
    scales = jnp.arange(36.0).reshape(SHAPE[:4][0], 3, 2, 1) * jnp.ones((1, 1, 1, 2))
    source = QuantizedPool(pages=pages, scales=scales)
    target = make_quantized_pool(SHAPE, "int8")
    moved = scatter_pages(target, ids(1), gather_pages(source, ids(4)))
    assert isinstance(moved, QuantizedPool)
    np.testing.assert_array_equal(np.asarray(moved.scales[1]), scales[4])
    np.testing.assert_array_equal(np.asarray(moved.pages[1]), pages[4])
    assert not np.any(np.asarray(moved.scales)[[0, 2, 3, 4, 5]])


def test_the_given_pool_is_donated() -> None:
    pool = random_pool(0)
    scatter_pages(pool, ids(1), gather_pages(pool, ids(2)))
    assert pool.is_deleted()


def test_neither_direction_copies_the_pool() -> None:
    pool = jax.ShapeDtypeStruct((4000, *SHAPE[1:]), jnp.float32)
    ids16 = jax.ShapeDtypeStruct((16,), jnp.int32)
    pages = jax.ShapeDtypeStruct((16, *SHAPE[1:]), jnp.float32)
    page_bytes = 192 * 32 * 4
    taken = gather_pages.lower(pool, ids16).compile()
    assert taken.memory_analysis().temp_size_in_bytes < 32 * page_bytes
    put = scatter_pages.lower(pool, ids16, pages).compile()
    assert put.memory_analysis().alias_size_in_bytes == 4000 * page_bytes
    assert put.memory_analysis().temp_size_in_bytes < 32 * page_bytes
    for line in put.as_text().splitlines():
        is_whole_pool = line.split(" = ")[-1].startswith("f32[4000")
        assert not (is_whole_pool and " copy(" in line), line


def test_a_checksum_is_the_weighted_sum_of_the_words() -> None:
    page = np.zeros((1, 1, 2, 1, 2, 2), np.float32)
    page.reshape(-1)[[0, 3]] = [1.0, 2.0]  # bits 0x3f800000 and 0x40000000
    weights = [2654435761, 3 * 2654435760 + 2654435761]
    want = (0x3F800000 * weights[0] + 0x40000000 * weights[1]) % 2**32
    assert checksum_pages(jnp.asarray(page)).tolist() == [want]


def change_a_word(page: np.ndarray) -> None:
    page[2, 1, 1, 15, 31] = 1 + page[2, 1, 1, 15, 31]


def swap_two_words(page: np.ndarray) -> None:
    page[0, 0, 0, [0, 1]] = page[0, 0, 0, [1, 0]]


def lose_all_words(page: np.ndarray) -> None:
    page[:] = 0


@pytest.mark.parametrize("spoil", [change_a_word, swap_two_words, lose_all_words])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_checksum_sees_changed_swapped_and_missing_words(
    dtype: str, spoil: Callable[[np.ndarray], None]
) -> None:
    pages = random_pool(0, dtype)[:4]
    other = np.array(pages)
    spoil(other[2])
    want = np.asarray(checksum_pages(pages))
    got = np.asarray(checksum_pages(jnp.asarray(other)))
    assert (got != want).tolist() == [False, False, True, False]


def test_a_quantised_checksum_covers_the_scales() -> None:
    pool = make_quantized_pool(SHAPE, "int8")
    other = QuantizedPool(pages=pool.pages, scales=pool.scales.at[3, 1, 0, 1].set(2.0))
    same = np.asarray(checksum_pages(pool)) == np.asarray(checksum_pages(other))
    assert same.tolist() == [True, True, True, False, True, True]


def test_pages_move_between_sharded_pools_with_the_same_checksum() -> None:
    devices = np.array(jax.devices())
    spec = PartitionSpec(None, None, None, "tp")
    source_mesh, target_mesh = (Mesh(devices[i : i + 2], "tp") for i in (0, 2))
    pool = jax.device_put(random_pool(0), NamedSharding(source_mesh, spec))
    target = jax.device_put(random_pool(1), NamedSharding(target_mesh, spec))
    want = np.array(target)
    want[1] = np.asarray(pool)[5]
    pages = gather_pages(pool, ids(5))
    moved = jax.device_put(pages, NamedSharding(target_mesh, spec))
    assert checksum_pages(pages).tolist() == checksum_pages(moved).tolist()
    assert (
        checksum_pages(moved).tolist()
        == checksum_pages(jnp.asarray(want[1:2])).tolist()
    )
    got = scatter_pages(target, ids(1), moved)
    assert got.sharding.spec == spec
    np.testing.assert_array_equal(np.asarray(got), want)


def test_arguments_that_do_not_fit_are_refused() -> None:
    pool = random_pool(0)
    with pytest.raises(ValueError, match=r"page_ids must be \[n\], got shape \(1, 1\)"):
        gather_pages(pool, jnp.zeros((1, 1), jnp.int32))
    with pytest.raises(TypeError, match="page_ids must be int32, got float32"):
        gather_pages(pool, jnp.zeros(1))
    with pytest.raises(ValueError, match=r"pages must be \(2, 3, 2, 2, 16, 32\) for 2"):
        scatter_pages(pool, ids(1, 2), pool[:1])
    with pytest.raises(TypeError, match="pages must be float32 like the pool, got bf"):
        scatter_pages(pool, ids(1), random_pool(0, "bfloat16")[:1])
    with pytest.raises(ValueError, match="pages must be of the pool's kind"):
        scatter_pages(pool, ids(1), make_quantized_pool((1, *SHAPE[1:]), "int8"))
    with pytest.raises(ValueError, match="a quantised pool is"):
        make_quantized_pool(SHAPE, "int4")

"""Writes into the pool land in their slots, and nowhere else."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.pallas_kernels import ragged_paged_attention, write_kv
from tests.pallas_kernels.cases import QUICK

WRITE = jax.jit(write_kv, compiler_options=QUICK)
SHAPE = (6, 3, 2, 2, 16, 32)  # [P, L, 2, K, S, H]


def random(seed: int, *shape: int) -> jax.Array:
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, jnp.float32)


def test_each_token_lands_in_its_slot_and_nothing_else_changes() -> None:
    pool, k, v = random(0, *SHAPE), random(1, 3, 2, 32), random(2, 3, 2, 32)
    slots = jnp.array([5 * 16 + 15, 1 * 16, 3 * 16 + 7], jnp.int32)
    got = np.asarray(WRITE(pool, k, v, layer=jnp.int32(1), page_slots=slots))
    want = np.array(pool)
    for token, (page, offset) in enumerate([(5, 15), (1, 0), (3, 7)]):
        want[page, 1, 0, :, offset] = k[token]
        want[page, 1, 1, :, offset] = v[token]
    np.testing.assert_array_equal(got, want)


def test_padding_tokens_may_share_a_scratch_slot_and_change_nothing() -> None:
    pool, k, v = random(0, *SHAPE), random(1, 40, 2, 32), random(2, 40, 2, 32)
    slots = jnp.zeros(40, jnp.int32).at[20].set(16)
    got = WRITE(pool, k, v, layer=jnp.int32(0), page_slots=slots)
    want = pool.at[1, 0, :, :, 0].set(jnp.stack([k[20], v[20]]))
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


def test_keys_and_values_are_cast_to_the_pools_dtype() -> None:
    pool = jnp.zeros(SHAPE, jnp.bfloat16)
    k = jnp.full((1, 2, 32), 1.0 + 2.0**-12)
    got = WRITE(pool, k, k, layer=jnp.int32(2), page_slots=jnp.array([20], jnp.int32))
    assert got.dtype == jnp.bfloat16
    assert float(got.astype(jnp.float32).sum()) == 2 * 2 * 32


@pytest.mark.parametrize("decode", [True, False])
def test_a_step_writes_a_donated_pool_in_place(decode: bool) -> None:
    """Three layers of write and attention need no temporary of the pool's size."""

    @functools.partial(jax.jit, donate_argnames="pool")
    def step(
        pool: jax.Array, x: jax.Array, ids: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        for layer in range(3):
            pool = write_kv(
                pool, x[:, :2], x[:, 2:], layer=layer, page_slots=ids[0, :4]
            )
            x = ragged_paged_attention(
                x,
                pool,
                layer=layer,
                page_table=ids,
                kv_lens=ids[0, :4],
                cu_q_lens=ids[0, :5],
                sm_scale=1.0,
                decode=decode,
            )
        return pool, x

    pool = jax.ShapeDtypeStruct((2000, *SHAPE[1:]), jnp.float32)
    x = jax.ShapeDtypeStruct((4, 4, 32), jnp.float32)
    ids = jax.ShapeDtypeStruct((4, 32), jnp.int32)
    compiled = step.lower(pool, x, ids).compile(compiler_options=QUICK)
    memory = compiled.memory_analysis()
    pool_bytes = 2000 * 3 * 2 * 2 * 16 * 32 * 4
    assert memory.alias_size_in_bytes >= pool_bytes
    assert memory.temp_size_in_bytes < pool_bytes // 8


def arguments(**changes: Any) -> dict[str, Any]:
    return {
        "pool": jnp.zeros(SHAPE),
        "k": jnp.zeros((4, 2, 32)),
        "v": jnp.zeros((4, 2, 32)),
        "layer": 0,
        "page_slots": jnp.zeros(4, jnp.int32),
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": jnp.zeros(SHAPE[1:])}, r"pool must be \[P, L, 2, K, S, H\]"),
        ({"k": jnp.zeros((4, 1, 32))}, r"k and v must be \[T, K, H\] = \(4, 2, 32\)"),
        ({"v": jnp.zeros((5, 2, 32))}, r"k and v must be \[T, K, H\] = \(4, 2, 32\)"),
        ({"page_slots": jnp.zeros((4, 1), jnp.int32)}, r"page_slots must be \[T\]"),
        ({"layer": 3}, r"layer must be in 0\.\.2, got 3"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_kv(**arguments(**changes))


def test_slots_must_be_int32() -> None:
    with pytest.raises(TypeError, match="page_slots must be int32, got int16"):
        write_kv(**arguments(page_slots=jnp.zeros(4, jnp.int16)))


def test_a_pool_too_large_for_int32_rows_is_refused() -> None:
    pool = jax.ShapeDtypeStruct((2**20, 32, 2, 8, 16, 128), jnp.float32)
    k = jax.ShapeDtypeStruct((1, 8, 128), jnp.float32)
    slots = jax.ShapeDtypeStruct((1,), jnp.int32)
    with pytest.raises(ValueError, match="use fewer pages"):
        jax.eval_shape(
            lambda pool, k, slots: write_kv(pool, k, k, layer=0, page_slots=slots),
            pool,
            k,
            slots,
        )

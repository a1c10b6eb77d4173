"""Tokens written one by one into pages of one byte per number, read back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.pallas_kernels import QuantizedPool, make_quantized_pool, write_kv
from tests.pallas_kernels.cases import QUICK

SHAPE = (5, 2, 2, 2, 16, 8)  # [P, L, 2, K, S, H]
LAYER = 1
DTYPES = pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])


WRITE = jax.jit(functools.partial(write_kv, layer=LAYER), compiler_options=QUICK)


def held(pool: QuantizedPool, page: int) -> np.ndarray:
    """[2, K, S, H] numbers of a page."""
    pages = np.asarray(pool.pages[page, LAYER].astype(jnp.float32))
    with np.errstate(invalid="ignore"):  # 0 * inf is meant to be NaN
        return pages * np.asarray(pool.scales[page, LAYER])[..., None, None]


def written(
    kv: np.ndarray, chunks: list[int], dtype: str, *, first_slot: int = 16
) -> QuantizedPool:
    """The pool after `kv` [T, 2, K, H] was written in chunks of so many tokens."""
    pool, done = make_quantized_pool(SHAPE, dtype), 0
    for count in chunks:
        new = jnp.asarray(kv[done : done + count], jnp.float32)
        slots = first_slot + done + jnp.arange(count, dtype=jnp.int32)
        pool = WRITE(pool, new[:, 0], new[:, 1], page_slots=slots)
        done += count
    return pool


def worst_case(x: np.ndarray, dtype: str) -> np.ndarray:
    """How far a number of a page [2, K, S, H] may be off."""
    peak = np.abs(x).max(axis=(2, 3), keepdims=True)
    if dtype == "int8":  # one step of a scale that is at most twice peak / 127
        return np.broadcast_to(peak * (2 / 127), x.shape)
    return np.abs(x) / 16 + peak * (2 / 448) * 2.0**-9  # 3 bits, and the smallest ones


@DTYPES
@pytest.mark.parametrize("chunks", [[16], [1] * 16, [7, 1, 1, 7]], ids=str)
@pytest.mark.parametrize("growth", [0.5, 1.0, 1.5], ids=lambda g: f"growth {g}")
def test_a_page_is_within_a_step_of_what_was_written(
    dtype: str, chunks: list[int], growth: float
) -> None:
    kv = np.random.default_rng(0).normal(size=(16, 2, 2, 8))
    kv *= growth ** np.arange(16)[:, None, None, None]
    pool = written(kv, chunks, dtype)
    want = kv.transpose(1, 2, 0, 3)
    assert np.all(np.abs(held(pool, 1) - want) <= worst_case(want, dtype))


def test_one_large_token_rescales_the_older_ones() -> None:
    kv = np.zeros((3, 2, 2, 8))
    kv[0], kv[1], kv[2] = 31.0, 12.0, 254.0  # scales 1/4, 1/4 and 2
    pool = written(kv, [1, 1], "int8")
    assert np.asarray(pool.scales)[1, LAYER].tolist() == [[0.25, 0.25]] * 2
    assert np.asarray(pool.pages)[1, LAYER, 0, 0, :3, 0].tolist() == [124, 48, 0]
    pool = written(kv, [1, 1, 1], "int8")
    assert np.asarray(pool.scales)[1, LAYER].tolist() == [[2.0, 2.0]] * 2
    assert np.asarray(pool.pages)[1, LAYER, 0, 0, :3, 0].tolist() == [16, 6, 127]


@DTYPES
def test_a_recycled_page_forgets_its_old_scale(dtype: str) -> None:
    kv = np.random.default_rng(0).normal(size=(1, 2, 2, 8))
    pool = written(np.concatenate([1e6 * kv, kv]), [1], dtype)
    fresh = written(kv, [1], dtype)
    k, v = jnp.asarray(kv[:, 0], jnp.float32), jnp.asarray(kv[:, 1], jnp.float32)
    again = WRITE(pool, k, v, page_slots=jnp.array([16], jnp.int32))
    np.testing.assert_array_equal(held(again, 1)[:, :, 0], held(fresh, 1)[:, :, 0])


@DTYPES
def test_rows_that_continue_pages_and_padding_do_not_disturb_each_other(
    dtype: str,
) -> None:
    kv = np.random.default_rng(0).normal(size=(12, 2, 2, 8))
    pool = written(kv[:4], [4], dtype)  # page 1, slots 0 to 3
    new = jnp.asarray(1000 * kv[4:12], jnp.float32)
    # row 0 continues page 1; row 1 is empty; row 2 begins page 3; the rest is padding
    slots = jnp.array([20, 21, 22, 48, 49, 0, 0, 0], jnp.int32)
    cu_q_lens = jnp.array([0, 3, 3, 5, 5], jnp.int32)
    k, v = new[:, 0], new[:, 1]
    got = WRITE(pool, k, v, page_slots=slots, cu_q_lens=cu_q_lens)
    slow = WRITE(pool, k, v, page_slots=slots)
    want = np.zeros((2, 2, 16, 8))
    want[:, :, :7] = (
        kv[:7] * np.array([1] * 4 + [1000] * 3)[:, None, None, None]
    ).transpose(1, 2, 0, 3)
    for pool in (got, slow):
        assert np.all(np.abs(held(pool, 1) - want) <= worst_case(want, dtype))
        want3 = 1000 * kv[7:9].transpose(1, 2, 0, 3)
        assert np.all(
            np.abs(held(pool, 3)[:, :, :2] - want3) <= worst_case(want3, dtype)
        )
        assert not np.any(np.asarray(pool.scales)[[0, 2, 4]])
        assert not np.any(np.asarray(pool.scales)[:, 0])  # the other layer
        assert not np.any(np.asarray(pool.pages.astype(jnp.float32))[[0, 2, 4]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible_in_its_head_and_page(bad: float) -> None:
    kv = np.ones((1, 2, 2, 8))
    kv[0, 1, 0, 3] = bad  # a value of head 0
    pool = written(kv, [1], "int8")
    assert np.isnan(held(pool, 1)[1, 0]).all()
    assert np.isfinite(held(pool, 1)[0]).all()
    assert np.isfinite(held(pool, 1)[1, 1]).all()


def test_an_int8_pool_is_written_in_place() -> None:
    shapes = jax.eval_shape(lambda: make_quantized_pool((4000, *SHAPE[1:]), "int8"))
    kv = jax.ShapeDtypeStruct((4, 2, 8), jnp.float32)
    slots = jax.ShapeDtypeStruct((4,), jnp.int32)
    write = jax.jit(functools.partial(write_kv, layer=1), donate_argnames="pool")
    lowered = write.lower(shapes, kv, kv, page_slots=slots)
    memory = lowered.compile(compiler_options=QUICK).memory_analysis()
    pool_bytes = 4000 * (2 * 2 * 2 * 16 * 8 + 2 * 2 * 2 * 4)
    assert memory.alias_size_in_bytes == pool_bytes
    assert memory.temp_size_in_bytes < pool_bytes // 8

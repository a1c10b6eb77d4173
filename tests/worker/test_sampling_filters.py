"""Thresholds are exact: they equal what a sort finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.worker.sampling.filters import top_k_threshold, top_p_threshold

pytestmark = pytest.mark.parametrize("digit_bits", [1, 3, 4])
top_k = jax.jit(top_k_threshold, static_argnames="digit_bits")
top_p = jax.jit(top_p_threshold, static_argnames="digit_bits")


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_top_k_threshold_is_the_kth_value_of_a_sort(scale, digit_bits):
    values = np.random.default_rng(1).standard_normal((64, 333)) * scale
    values = values.astype(np.float32)
    values[::3] = np.round(values[::3] / scale) * scale
    values[::5, ::2] = -np.inf
    k = np.arange(1, 65, dtype=np.int32) * 5
    expected = -np.sort(-values, axis=1)[np.arange(64), k - 1]
    np.testing.assert_array_equal(top_k(values, k=k, digit_bits=digit_bits), expected)


def test_top_k_of_zero_or_more_than_all_keeps_everything(digit_bits):
    values = np.array([[1, -np.inf, 2]] * 3, np.float32)
    thresholds = top_k(values, k=np.array([0, 3, 99], np.int32), digit_bits=digit_bits)
    assert (values >= np.asarray(thresholds)[:, None]).all()


def test_signed_zeros_tie(digit_bits):
    values = np.array([[-0.0, 0.0, -1.0]], np.float32)
    threshold = np.asarray(
        top_k(values, k=np.array([1], np.int32), digit_bits=digit_bits)
    )
    assert (values >= threshold[:, None]).tolist() == [[True, True, False]]


def test_the_nucleus_is_the_fewest_weights_that_reach_p(digit_bits):
    # halves: exact sums
    weights = np.array([[0.125, 1.0, 0.25, 0.5, 0.125]] * 6, np.float32)  # total 2
    p = np.array([0.0, 0.5, 0.51, 0.75, 0.876, 1.0], np.float32)
    kept = weights >= np.asarray(top_p(weights, p=p, digit_bits=digit_bits))[:, None]
    assert kept.astype(int).tolist() == [
        [0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 1, 0, 1, 0],
        [1, 1, 1, 1, 1],  # the tied eighths stay together
        [1, 1, 1, 1, 1],
    ]


def test_a_nucleus_always_keeps_the_maximum(digit_bits):
    weights = np.zeros((3, 40), np.float32)
    weights[:, 7] = 1.0
    weights[1, :] = 1.0
    p = np.array([0.0, 1e-9, 0.999], np.float32)
    kept = weights >= np.asarray(top_p(weights, p=p, digit_bits=digit_bits))[:, None]
    assert kept[:, 7].all()


def test_a_row_without_weights_does_no_harm(digit_bits):
    assert np.isfinite(
        top_p(jnp.zeros((1, 9)), p=jnp.array([0.5]), digit_bits=digit_bits)
    ).all()

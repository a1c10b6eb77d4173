"""Thresholds are exact: they equal what a sort finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.worker.sampling.filters import top_k_threshold, top_p_threshold

top_k = jax.jit(lambda values, k: top_k_threshold(values, k=k))
top_p = jax.jit(lambda weights, p: top_p_threshold(weights, p=p))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_top_k_threshold_is_the_kth_value_of_a_sort(scale):
    values = np.random.default_rng(1).standard_normal((64, 333)) * scale
    values = values.astype(np.float32)
    values[::3] = np.round(values[::3] / scale) * scale
    values[::5, ::2] = -np.inf
    k = np.arange(1, 65, dtype=np.int32) * 5
    expected = -np.sort(-values, axis=1)[np.arange(64), k - 1]
    np.testing.assert_array_equal(top_k(values, k), expected)


def test_top_k_of_zero_or_more_than_all_keeps_everything():
    values = np.array([[1, -np.inf, 2]] * 3, np.float32)
    thresholds = top_k(values, np.array([0, 3, 99], np.int32))
    assert (values >= np.asarray(thresholds)[:, None]).all()


def test_signed_zeros_tie():
    values = np.array([[-0.0, 0.0, -1.0]], np.float32)
    threshold = np.asarray(top_k(values, np.array([1], np.int32)))
    assert (values >= threshold[:, None]).tolist() == [[True, True, False]]


def test_the_nucleus_is_the_fewest_weights_that_reach_p():
    # halves: exact sums
    weights = np.array([[0.125, 1.0, 0.25, 0.5, 0.125]] * 6, np.float32)  # total 2
    p = np.array([0.0, 0.5, 0.51, 0.75, 0.876, 1.0], np.float32)
    kept = weights >= np.asarray(top_p(weights, p))[:, None]
    assert kept.astype(int).tolist() == [
        [0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 1, 0, 1, 0],
        [1, 1, 1, 1, 1],  # the tied eighths stay together
        [1, 1, 1, 1, 1],
    ]


def test_a_nucleus_always_keeps_the_maximum():
    weights = np.zeros((3, 40), np.float32)
    weights[:, 7] = 1.0
    weights[1, :] = 1.0
    p = np.array([0.0, 1e-9, 0.999], np.float32)
    kept = weights >= np.asarray(top_p(weights, p))[:, None]
    assert kept[:, 7].all()


def test_a_row_without_weights_does_no_harm():
    assert np.isfinite(top_p(jnp.zeros((1, 9)), jnp.array([0.5], jnp.float32))).all()

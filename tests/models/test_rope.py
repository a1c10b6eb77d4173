import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.models.rope import RopeConfig, rope_table, rotate
from mell_jax.models.rope_scaling import YarnRope

QUARTER_TURNS = (
    jnp.array([[[0.0, 0.0]], [[0.0, 0.0]]]),
    jnp.array([[[1.0, 1.0]], [[-1.0, -1.0]]]),
)
"""A table of two tokens and two pairs: forward for the first, back for the second."""
ONE_TO_SIX = jnp.broadcast_to(jnp.arange(1.0, 7.0), (2, 1, 6))


def test_half_split_pairs_turn_and_the_other_channels_pass():
    turned = rotate(ONE_TO_SIX, QUARTER_TURNS)
    assert turned[0, 0].tolist() == [-3, -4, 1, 2, 5, 6]
    assert turned[1, 0].tolist() == [3, 4, -1, -2, 5, 6]


def test_interleaved_pairs_turn_and_the_other_channels_pass():
    turned = rotate(ONE_TO_SIX, QUARTER_TURNS, is_interleaved=True)
    assert turned[0, 0].tolist() == [-2, 1, -4, 3, 5, 6]
    assert turned[1, 0].tolist() == [2, -1, 4, -3, 5, 6]


def test_a_table_has_the_angles_of_each_position():
    rope = RopeConfig(theta=100.0, dims=4)
    cos, sin = rope_table(jnp.array([[0, 3, 10]]), rope, head_dim=8)
    assert cos.shape == sin.shape == (1, 3, 1, 2)
    assert cos.dtype == sin.dtype == jnp.float32
    angles = [[0.0, 0.0], [3.0, 0.3], [10.0, 1.0]]
    np.testing.assert_allclose(cos[0, :, 0], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sin[0, :, 0], np.sin(angles), atol=1e-6)


def test_a_table_is_multiplied_by_the_gain():
    scaling = YarnRope(factor=math.e, original_context=64)  # its gain: 1.1
    rope = RopeConfig(scaling=scaling)
    cos, sin = rope_table(jnp.arange(5), rope, head_dim=16)
    np.testing.assert_allclose(cos**2 + sin**2, np.full((5, 1, 8), 1.21), rtol=1e-6)


def test_a_rope_that_does_not_fit_the_head_is_refused():
    with pytest.raises(ValueError, match="to the head size 8, got 16"):
        rope_table(jnp.arange(2), RopeConfig(dims=16), head_dim=8)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_precision_is_kept_and_passing_channels_are_untouched(dtype):
    x = jax.random.normal(jax.random.key(0), (3, 2, 8), dtype)
    table = rope_table(jnp.arange(3) + 7, RopeConfig(dims=4), head_dim=8)
    turned = rotate(x, table)
    assert turned.dtype == dtype
    assert (turned[..., 4:] == x[..., 4:]).all()
    exact = rotate(x.astype(jnp.float32), table).astype(dtype)
    assert (turned == exact).all()  # computed in float32, rounded once


@st.composite
def settings(draw):
    """A head size, a rope for it and a seed."""
    pairs = draw(st.sampled_from([1, 3, 8]))  # few shapes, for each is compiled
    passing = draw(st.sampled_from([0, 5]))
    rope = RopeConfig(
        theta=draw(st.floats(10.0, 1e6)),
        dims=2 * pairs,
        is_interleaved=draw(st.booleans()),
    )
    return 2 * pairs + passing, rope, draw(st.integers(0, 1 << 20))


def random_heads(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@hypothesis.settings(max_examples=25)
@hypothesis.given(settings(), st.integers(0, 5000))
def test_a_rotation_keeps_lengths(setting, position):
    head_dim, rope, seed = setting
    x = random_heads(seed, 1, 3, head_dim)
    table = rope_table(jnp.array([position]), rope, head_dim=head_dim)
    turned = rotate(x, table, is_interleaved=rope.is_interleaved)
    lengths = [np.linalg.norm(value, axis=-1) for value in (x, turned)]
    np.testing.assert_allclose(lengths[1], lengths[0], rtol=1e-5)


@hypothesis.settings(max_examples=25)
@hypothesis.given(settings(), st.integers(0, 200), st.integers(0, 200))
def test_a_score_depends_on_the_distance_alone(setting, distance, start):
    head_dim, rope, seed = setting
    q, k = random_heads(seed, 2, 1, 1, head_dim)

    def score(first):
        positions = jnp.array([[first + distance], [first]])
        tables = [rope_table(p, rope, head_dim=head_dim) for p in positions]
        turned = [
            rotate(x, table, is_interleaved=rope.is_interleaved)
            for x, table in zip((q, k), tables, strict=True)
        ]
        return float(jnp.vdot(*turned))

    assert score(start) == pytest.approx(score(0), abs=2e-3 * head_dim)


@hypothesis.settings(max_examples=25)
@hypothesis.given(settings(), st.integers(1, 5000))
def test_interleaved_is_half_split_with_its_channels_in_another_order(
    setting, position
):
    head_dim, rope, seed = setting
    assert rope.dims is not None
    order = [*range(0, rope.dims, 2), *range(1, rope.dims, 2)]
    order += range(rope.dims, head_dim)  # those that pass
    x = random_heads(seed, 1, 2, head_dim)
    table = rope_table(jnp.array([position]), rope, head_dim=head_dim)
    interleaved = rotate(x, table, is_interleaved=True)
    half_split = rotate(x[..., jnp.array(order)], table)
    np.testing.assert_array_equal(interleaved[..., jnp.array(order)], half_split)


@hypothesis.settings(max_examples=25)
@hypothesis.given(settings())
def test_position_zero_stays(setting):
    head_dim, rope, seed = setting
    x = random_heads(seed, 1, 2, head_dim)
    table = rope_table(jnp.array([0]), rope, head_dim=head_dim)
    turned = rotate(x, table, is_interleaved=rope.is_interleaved)
    np.testing.assert_array_equal(turned, x)

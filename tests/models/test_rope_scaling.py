import math

import numpy as np
import pytest

from mell_jax.models.rope import RopeConfig, inverse_frequencies
from mell_jax.models.rope_scaling import (
    DynamicRope,
    LinearRope,
    Llama3Rope,
    LongRope,
    YarnRope,
)
from tests.models.published_ropes import PUBLISHED, published_goldens

POWERS_OF_TEN = RopeConfig(theta=10_000.0)  # of a head of 8: 1, .1, .01, .001


def frequencies(scaling, *, head_dim=8, **changes):
    rope = RopeConfig(theta=10_000.0, scaling=scaling, **changes)
    return inverse_frequencies(rope, head_dim=head_dim)


@pytest.mark.parametrize("name", published_goldens())
def test_frequencies_and_gain_are_those_of_transformers(name):
    golden = published_goldens()[name]
    case = PUBLISHED[name.removesuffix(", short")]
    served = 1 if name.endswith(", short") else case.context
    rope = case.rope.for_context(served)
    found = inverse_frequencies(rope, head_dim=case.head_dim)
    np.testing.assert_allclose(found, golden["frequencies"], rtol=1e-6)
    gain = 1.0 if rope.scaling is None else rope.scaling.gain
    assert gain == pytest.approx(golden["gain"], rel=1e-12)


def test_plain_frequencies_fall_from_one_turn_per_radian():
    found = inverse_frequencies(POWERS_OF_TEN, head_dim=8)
    np.testing.assert_allclose(found, [1, 0.1, 0.01, 0.001], rtol=1e-6)


def test_a_partial_rope_has_the_frequencies_of_a_smaller_head():
    found = inverse_frequencies(RopeConfig(theta=100.0, dims=4), head_dim=10)
    np.testing.assert_allclose(found, [1, 0.1], rtol=1e-6)


def test_linear_divides_every_frequency():
    found = frequencies(LinearRope(factor=4.0))
    np.testing.assert_allclose(found, [0.25, 0.025, 0.0025, 0.00025], rtol=1e-6)


def test_dynamic_changes_nothing_within_the_context():
    found = frequencies(DynamicRope(factor=6.0))
    np.testing.assert_allclose(found, [1, 0.1, 0.01, 0.001], rtol=1e-6)


def test_llama3_keeps_short_waves_and_stretches_long_ones():
    """The context holds 100, 10, 1 and 0.1 turns; from 1 to 19 it is interpolated."""
    scaling = Llama3Rope(
        factor=4.0, low_freq_factor=1.0, high_freq_factor=19.0, original_context=628
    )
    expected = [1, 0.1 * (0.5 + 0.5 / 4), 0.01 / 4, 0.001 / 4]
    np.testing.assert_allclose(frequencies(scaling), expected, rtol=1e-3)


def yarn(**changes):
    """Pair 1 turns `beta_fast` times in the context, pair 3 `beta_slow` times."""
    turns = 1000 / (2 * math.pi)
    values = {"beta_fast": turns / 10, "beta_slow": turns / 1000, "factor": 4.0}
    return YarnRope(
        **{**values, "is_truncated": False, **changes}, original_context=1000
    )


def test_yarn_stretches_from_the_fast_pair_to_the_slow_one():
    expected = [1, 0.1, 0.01 * (0.5 + 0.5 / 4), 0.001 / 4]
    np.testing.assert_allclose(frequencies(yarn()), expected, rtol=1e-6)


def test_a_truncated_yarn_begins_and_ends_at_whole_pairs():
    """The range from 1.3 to 2.7 becomes that from 1 to 3."""
    turns = 1000 / (2 * math.pi)
    narrow = {"beta_fast": turns / 10**1.3, "beta_slow": turns / 10**2.7}
    found = frequencies(yarn(is_truncated=True, **narrow))
    np.testing.assert_allclose(found, frequencies(yarn()), rtol=1e-6)
    assert found[2] == pytest.approx(0.00625)
    assert frequencies(yarn(**narrow))[2] == pytest.approx(0.00625)
    assert frequencies(yarn(is_truncated=True, **narrow, factor=8.0))[2] < 0.00625


def test_yarn_whose_range_is_one_pair_makes_a_step():
    turns = 1000 / (2 * math.pi)
    close = {"beta_fast": turns * 1.001, "beta_slow": turns}  # both before pair 0
    found = frequencies(yarn(is_truncated=True, **close))
    np.testing.assert_allclose(found, [1, 0.025, 0.0025, 0.00025], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "gain"),
    [
        ({}, 1.1),
        ({"factor": 1.0}, 1.0),
        ({"mscale": 2.0}, 1.1),
        ({"mscale": 2.0, "mscale_all_dim": 0.0}, 1.1),
        ({"mscale": 2.0, "mscale_all_dim": 1.0}, 1.2 / 1.1),
        ({"mscale": 2.0, "mscale_all_dim": 1.0, "attention_factor": 3.0}, 3.0),
    ],
)
def test_the_gain_of_yarn_grows_with_the_logarithm_of_its_factor(changes, gain):
    assert yarn(**{"factor": math.e, **changes}).gain == pytest.approx(gain)


LONGROPE = LongRope(
    short_factor=(1.0, 2.0, 4.0, 5.0),
    long_factor=(2.0, 4.0, 8.0, 10.0),
    original_context=100,
    factor=100.0,
)


def test_longrope_takes_the_short_list_up_to_the_original_context():
    found = frequencies(LONGROPE.for_context(100))
    np.testing.assert_allclose(found, [1, 0.05, 0.0025, 0.0002], rtol=1e-6)


def test_longrope_takes_the_long_list_for_a_server_of_longer_contexts():
    found = frequencies(LONGROPE.for_context(101))
    np.testing.assert_allclose(found, [0.5, 0.025, 0.00125, 0.0001], rtol=1e-6)
    assert LONGROPE.for_context(101).for_context(100) == LONGROPE


def test_only_longrope_depends_on_the_longest_context():
    assert POWERS_OF_TEN.for_context(1 << 20) is POWERS_OF_TEN
    rope = RopeConfig(scaling=LONGROPE).for_context(101)
    assert rope == RopeConfig(scaling=LONGROPE.for_context(101))


@pytest.mark.parametrize(
    ("changes", "gain"),
    [
        ({}, math.sqrt(2.0)),
        ({"factor": 1.0}, 1.0),
        ({"factor": 0.5}, 1.0),
        ({"attention_factor": 3.0}, 3.0),
    ],
)
def test_the_gain_of_longrope_is_by_the_reach_in_contexts(changes, gain):
    values = {"short_factor": (1.0,), "long_factor": (1.0,), "original_context": 100}
    assert LongRope(**{**values, "factor": 100.0, **changes}).gain == pytest.approx(
        gain
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearRope(factor=0.5), "factor must be at least 1"),
        (lambda: LinearRope(factor=math.nan), "factor must be at least 1"),
        (lambda: LinearRope(factor=1e300), "at most 1048576, got 1e"),
        (lambda: DynamicRope(factor=0.0), "factor must be at least 1"),
        (lambda: yarn(factor=0.9), "factor must be at least 1"),
        (lambda: yarn(beta_slow=0.0), "0 < beta_slow < beta_fast, got 0.0 and"),
        (lambda: yarn(beta_slow=32.0, beta_fast=1.0), "got 32.0 and 1.0"),
        (lambda: yarn(attention_factor=0.0), "attention_factor must be positive"),
        (lambda: yarn(mscale=-1.0), "rope mscale must not be negative, got -1.0"),
        (lambda: yarn(mscale_all_dim=math.nan), "rope mscale_all_dim must not be"),
        (
            lambda: YarnRope(factor=2.0, original_context=1),
            "original_context must be from 2 to 1073741824, got 1",
        ),
        (
            lambda: Llama3Rope(
                factor=8.0,
                low_freq_factor=4.0,
                high_freq_factor=4.0,
                original_context=8192,
            ),
            "0 < low_freq_factor < high_freq_factor, got 4.0 and 4.0",
        ),
        (
            lambda: LongRope(
                short_factor=(1.0,), long_factor=(1.0, 1.0), original_context=8
            ),
            "of one length, got 1 and 2 numbers",
        ),
        (
            lambda: LongRope(short_factor=(), long_factor=(), original_context=8),
            "of one length, got 0 and 0 numbers",
        ),
        (
            lambda: LongRope(
                short_factor=(1.0, 1.0), long_factor=(1.0, 0.0), original_context=8
            ),
            "must be positive, got 0.0 among them",
        ),
        (
            lambda: LongRope(
                short_factor=(1.0,),
                long_factor=(1.0,),
                original_context=8,
                factor=math.nan,
            ),
            "factor must be above 0",
        ),
        (
            lambda: LongRope(
                short_factor=(1.0,),
                long_factor=(1.0,),
                original_context=8,
                attention_factor=-1.0,
            ),
            "attention_factor must be positive, got -1.0",
        ),
        (lambda: RopeConfig(theta=1.0), "theta must be above 1, got 1.0"),
        (lambda: RopeConfig(theta=math.inf), "theta must be above 1"),
        (lambda: RopeConfig(theta=math.nan), "theta must be above 1"),
        (lambda: RopeConfig(dims=3), "dims must be even"),
        (lambda: RopeConfig(dims=0), "dims must be even and from 2"),
        (lambda: RopeConfig(dims=6, scaling=LONGROPE), "must have 3 numbers each"),
        (
            lambda: inverse_frequencies(RopeConfig(dims=64), head_dim=32),
            "from 2 to the head size 32, got 64",
        ),
        (
            lambda: inverse_frequencies(RopeConfig(), head_dim=7),
            "dims must be even and from 2 to the head size 7, got 7",
        ),
        (lambda: frequencies(LONGROPE, head_dim=16), "must have 8 numbers each"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match="rope") as error:
        make()
    assert message in str(error.value)


def test_equal_ropes_are_one_key_of_a_table():
    ropes = {case.rope: name for name, case in PUBLISHED.items()}
    assert ropes[PUBLISHED["Phi-4-mini"].rope] == "Phi-4-mini, transformers 5"
    assert ropes[RopeConfig()] == "Llama 2"

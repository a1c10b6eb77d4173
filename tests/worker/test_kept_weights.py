"""Places that new weights leave as they are."""

import jax
import jax.numpy as jnp
import pytest

from mell_jax.worker.held_weights import HeldWeights

HERE = jax.devices()[0]


def put(value: object) -> jax.Array:
    return jax.device_put(jnp.array(value), HERE)


def held() -> HeldWeights:
    return HeldWeights((put([1.0, 2.0]), put([3.0]), put(jnp.uint32(7))))


NEW = [(0, put([5.0, 6.0])), (1, put([7.0])), (2, put(jnp.uint32(8)))]


@pytest.mark.parametrize(
    ("places", "kept"),
    [([0, 1, 2], []), ([2, 0, 1], []), ([0, 1], [2]), ([], [0, 1, 2])],
)
def test_all_places_are_given_or_kept(places, kept) -> None:
    held().check_all([NEW[place] for place in places], kept=kept)


@pytest.mark.parametrize(
    ("places", "kept"), [([0, 1], []), ([0, 0, 1], []), ([0, 1, 2], [2]), ([0, 1], [1])]
)
def test_none_is_left_out_or_named_twice(places, kept) -> None:
    with pytest.raises(ValueError, match="one array for each of 3 places"):
        held().check_all([NEW[place] for place in places], kept=kept)


def test_what_was_dropped_cannot_be_kept_but_counts_can() -> None:
    weights = held()
    weights.drop()
    with pytest.raises(ValueError, match="no array for 1 of these places, such as 1"):
        weights.check_all([NEW[0]], kept=[1, 2])
    weights.check_all(NEW[:2], kept=[2])
    for place, array in NEW[:2]:
        weights.replace(place, array)
    assert not weights.is_dropped
    assert [float(array.sum()) for array in weights.arrays] == [11.0, 7.0, 7.0]

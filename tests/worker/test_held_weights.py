"""Weights of a group of devices: who shares them, where they are, what may follow."""

import weakref
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from mell_jax.worker.held_weights import HeldWeights, bytes_of
from tests.toy import toy_weights, toy_worker


def on(device: int) -> SingleDeviceSharding:
    return SingleDeviceSharding(jax.devices()[device])


def cut() -> NamedSharding:
    mesh = jax.make_mesh((2,), ("tp",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("tp"))


def whole() -> NamedSharding:
    return NamedSharding(cut().mesh, PartitionSpec())


def array(
    shape: tuple[int, ...] = (4, 2),
    *,
    to: jax.sharding.Sharding | None = None,
    dtype: jnp.dtype = jnp.float32,
    value: float = 1.0,
) -> jax.Array:
    return jax.device_put(jnp.full(shape, value, dtype), to or on(0))


def held() -> HeldWeights:
    return HeldWeights((array(), array((3,), value=2.0)))


def kinds(weights: HeldWeights) -> set[str | None]:
    return {each.sharding.memory_kind for each in weights.arrays}


def deleted() -> jax.Array:
    made = array()
    made.delete()
    return made


@pytest.mark.parametrize(
    ("place", "make", "said"),
    [
        (2, array, "place must be from 0 to 1, got 2"),
        (-1, array, "place must be from 0 to 1, got -1"),
        (
            0,
            lambda: array((2, 4)),
            r"float32\[4, 2\], and the new ones float32\[2, 4\]",
        ),
        (0, lambda: array(dtype=jnp.int32), "in the engine's precision"),
        (0, lambda: jnp.ones((4, 2)), "not settled on a device"),
        (0, lambda: array(to=on(1)), "on the same devices in the same way"),
        (0, deleted, "have been deleted"),
    ],
)
def test_what_is_no_such_weight_is_refused_and_nothing_changes(
    place: int, make: Callable[[], jax.Array], said: str
) -> None:
    weights = held()
    before = weights.arrays
    with pytest.raises(ValueError, match=said):
        weights.check_all([(place, make())])
    with pytest.raises(ValueError, match=said):
        weights.replace(place, make())
    assert weights.arrays == before


def test_weights_that_are_cut_stay_cut_so() -> None:
    weights = HeldWeights((array(to=cut()),))
    weights.check(0, array(to=cut(), value=3.0))
    for other in (whole(), on(0)):
        with pytest.raises(ValueError, match="in the same way"):
            weights.check(0, array(to=other))


@pytest.mark.parametrize("places", [[0], [0, 0, 1], [0, 1, 1], []])
def test_every_place_gets_one(places: list[int]) -> None:
    weights = held()
    new = [(place, weights.arrays[place]) for place in places]
    with pytest.raises(ValueError, match="one array for each of 2 places"):
        weights.check_all(new)


def test_an_array_is_given_back_when_another_is_in_its_place() -> None:
    weights = held()
    gone, kept = weights.arrays[0], weights.arrays[1]
    watched, still_used = weakref.ref(gone), weakref.ref(kept)
    del gone
    for place in (0, 1):
        weights.replace(place, weights.arrays[place] + jnp.float32(1.0))
    assert watched() is None
    assert still_used() is kept  # its owner has it, and it is not deleted
    assert not kept.is_deleted()
    assert [float(each.ravel()[0]) for each in weights.arrays] == [2.0, 3.0]


def test_what_is_put_away_keeps_its_value_and_takes_others_there() -> None:
    weights = held()
    assert weights.device_nbytes == weights.nbytes == 4 * (8 + 3)
    weights.put_away()
    assert kinds(weights) == {"pinned_host"}
    assert weights.device_nbytes == 0
    weights.check_all(enumerate([array(value=5.0), array((3,))]))
    weights.replace(0, array(value=5.0))
    assert kinds(weights) == {"pinned_host"}
    weights.fetch()
    assert kinds(weights) == {"device"}
    weights.wait_ready()
    assert weights.is_ready
    assert [float(each.ravel()[0]) for each in weights.arrays] == [5.0, 2.0]


def test_what_is_dropped_comes_back_place_by_place() -> None:
    weights = held()
    gone = [weakref.ref(each) for each in weights.arrays]
    weights.drop()
    assert not any(each() for each in gone)
    assert weights.is_dropped
    weights.put_away()  # there is nothing to put away
    weights.fetch()
    weights.replace(1, array((3,)))
    with pytest.raises(AssertionError, match="not given anew"):
        _ = weights.arrays
    weights.replace(0, array())
    assert not weights.is_dropped
    assert kinds(weights) == {"device"}


def test_only_what_is_our_own_and_on_the_devices_may_be_written_over() -> None:
    weights, mine = held(), array(value=5.0)
    assert [weights.own(place) for place in (0, 1)] == [None, None]
    weights.replace(0, mine, is_own=True)
    weights.replace(1, array((3,)))
    assert weights.own(0) is mine
    assert weights.own(1) is None
    weights.put_away()
    assert weights.own(0) is None
    weights.fetch()
    assert weights.own(0) is weights.arrays[0] is not mine
    weights.replace(0, mine)  # somebody else has it, too
    assert weights.own(0) is None
    weights.replace(0, mine, is_own=True)
    weights.drop()
    assert weights.own(0) is None


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32], ids=str)
def test_what_was_written_over_is_missing_until_another_comes(dtype) -> None:
    weights = HeldWeights((array(dtype=dtype), array()))
    weights.arrays[0].delete()
    assert weights.is_deleted
    weights.drop()
    assert not weights.is_deleted
    assert weights.is_dropped
    for place, kind in enumerate((dtype, jnp.float32)):
        weights.replace(place, array(dtype=kind, value=3.0))
    assert not weights.is_dropped
    assert float(weights.arrays[0][0, 0]) == 3.0


def test_what_its_owner_deletes_is_dropped() -> None:
    weights = held()
    assert (weights.is_deleted, weights.device_nbytes) == (False, 44)
    weights.arrays[0].delete()
    assert weights.is_deleted
    assert weights.is_dropped
    assert weights.is_ready  # nobody has to wait for it
    assert weights.device_nbytes == 12
    weights.put_away()  # there is nothing whole to put away
    assert weights.arrays[1].sharding.memory_kind == "device"
    with pytest.raises(ValueError, match=r"dropped or deleted, .* such as 0: give all"):
        weights.check_all([(1, array((3,)))], kept=[0])
    weights.drop()
    assert not weights.is_deleted
    weights.replace(0, array())
    weights.replace(1, array((3,)))
    assert not weights.is_dropped


def test_weights_that_several_share_go_when_the_last_has_parked() -> None:
    group = toy_worker(num_pages=9, max_rows=8, token_budget=64, max_tokens=128).group
    weights = toy_weights(factor=1, group=group)
    one, two = (
        toy_worker(
            num_pages=9, max_rows=8, token_budget=64, max_tokens=128, held=weights
        )
        for _ in range(2)
    )
    assert one.held is two.held
    one.park(keeps_weights=False)
    assert kinds(weights) == {"device"}
    two.park(keeps_weights=False)
    assert kinds(weights) == {"pinned_host"}
    one.unpark()
    assert kinds(weights) == {"device"}
    before = weights.arrays
    two.unpark()
    assert all(a is b for a, b in zip(before, weights.arrays, strict=True))


def test_bytes_count_on_every_device() -> None:
    assert bytes_of([array(to=cut()), None]) == 32
    assert bytes_of([array(to=whole())]) == 64

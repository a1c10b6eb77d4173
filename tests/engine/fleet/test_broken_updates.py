"""Weights that do not fit, break off or are deleted, and what goes on all the same."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest

from mell_jax.engine.admin import Sleep, UpdateWeights, Wake
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import FinishReason
from mell_jax.engine.params import InvalidRequestError
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement.operator import NotPossibleError
from tests.engine.fleet.toy_fleet import TOY, toy_fleet
from tests.engine.fleet.versioned import (
    Over,
    Record,
    ToyWeights,
    factor_of,
    give,
    greedy,
    run,
    scale_of,
    tokens_until,
    watched_fleet,
)
from tests.toy import Transcript, expected, submit


def test_weights_of_another_shape_change_nothing() -> None:
    fleet, seen = toy_fleet(devices=2), Transcript()
    submit(fleet, [1, 2, 3], handle=0, params=greedy(6))
    tokens_until(fleet, seen, 2)
    for weights in (Misshapen(fleet), Short(fleet)):
        with pytest.raises(InvalidRequestError, match="weights"):
            fleet.administer(UpdateWeights(weights=weights))
    run(fleet, seen)
    assert seen.tokens[0] == expected([1, 2, 3], count=6)
    assert seen.versions[0] == ["0"] * 6


class Misshapen(ToyWeights):
    """Good ones for the first device, and others for the second."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet, factor=2, scale=2)

    def parts(
        self, device: DeviceGroupId, *, over: Over
    ) -> Iterator[tuple[int, jax.Array]]:
        for place, array in super().parts(device, over=over):
            yield place, array if device == 0 else jnp.repeat(array, 2)


class Short(ToyWeights):
    """One of two."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet, factor=2, scale=2)

    def parts(
        self, device: DeviceGroupId, *, over: Over
    ) -> Iterator[tuple[int, jax.Array]]:
        yield next(super().parts(device, over=over))


def test_weights_that_cannot_be_had_change_nothing() -> None:
    fleet, seen = toy_fleet(devices=2), Transcript()
    submit(fleet, [1, 2, 3], handle=0, params=greedy(6))
    tokens_until(fleet, seen, 2)
    weights = ToyWeights(fleet, factor=2, scale=2, breaks_after=(DeviceGroupId(1), 1))
    with pytest.raises(NotPossibleError, match="ends here"):
        fleet.administer(UpdateWeights(weights=weights))
    run(fleet, seen)
    assert seen.tokens[0] == expected([1, 2, 3], count=6)
    assert fleet.stats().losses == 0


def breaking_off(fleet: Fleet, *, after: int = 1) -> ToyWeights:
    """Streamed weights that break off after so many batches of the first device."""
    return ToyWeights(
        fleet,
        factor=2,
        scale=2,
        is_streamed=True,
        breaks_after=(DeviceGroupId(0), after),
    )


@pytest.mark.parametrize("after", [0, 1])
def test_streamed_weights_that_break_off_on_the_first_device(after: int) -> None:
    fleet, seen = toy_fleet(devices=2), Transcript()
    submit(fleet, [1, 2, 3], handle=0, params=greedy(6))
    tokens_until(fleet, seen, 2)
    weights = breaking_off(fleet, after=after)
    with pytest.raises(NotPossibleError, match="the file ends here"):
        fleet.administer(UpdateWeights(weights=weights))
    run(fleet, seen)
    assert seen.tokens[0] == expected([1, 2, 3], count=6)
    assert seen.versions[0] == ["0"] * 6
    assert fleet.stats().losses == after  # half of them on it: it is lost


class Torn(ToyWeights):
    """They break off while the first array is written over that of before."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet, factor=2, scale=2, is_streamed=True)

    def parts(
        self, device: DeviceGroupId, *, over: Over
    ) -> Iterator[tuple[int, jax.Array]]:
        for _ in super().parts(device, over=over):
            raise OSError("the file ends here")
        yield from ()


@pytest.mark.parametrize(
    ("devices", "is_own", "said", "losses"),
    [
        (1, True, "the engine sleeps; give whole ones", 0),
        (2, True, "broke off after 0 arrays", 1),
        (2, False, "nothing has changed", 0),  # what is not our own stays as it is
    ],
)
def test_what_was_written_over_and_not_replaced_is_no_whole_weight(
    devices: int, is_own: bool, said: str, losses: int
) -> None:
    fleet, seen = toy_fleet(devices=devices), Transcript()
    if is_own:
        give(fleet, factor=1, scale=1, then="keep")
    submit(fleet, [1, 2, 3], handle=0, params=greedy(6))
    tokens_until(fleet, seen, 2)
    with pytest.raises(NotPossibleError, match=said):
        fleet.administer(UpdateWeights(weights=Torn(fleet)))
    if devices == 1:
        give(fleet, factor=1, scale=1, then="keep")
        fleet.administer(Wake())
    run(fleet, seen)
    assert seen.tokens[0] == expected([1, 2, 3], count=6)
    assert fleet.stats().losses == losses


def test_streamed_weights_that_break_off_later_cost_that_device() -> None:
    record, seen = Record(), Transcript()
    fleet = watched_fleet(record, devices=2)
    submit(fleet, [1, 2, 3], handle=0, params=greedy(6))
    tokens_until(fleet, seen, 2)
    weights = ToyWeights(
        fleet,
        factor=factor_of(1),
        scale=scale_of(1),
        is_streamed=True,
        breaks_after=(DeviceGroupId(1), 1),
    )
    fleet.administer(UpdateWeights(weights=weights))
    record.generation = 1
    run(fleet, seen)
    record.check(seen, prompts={0: [1, 2, 3]})
    assert set(seen.versions[0]) == {"0", "1"}
    assert fleet.conductor.roster.lost == {1}


def test_streamed_weights_that_break_off_on_the_only_device_put_it_to_sleep() -> None:
    fleet, seen = toy_fleet(devices=1), Transcript()
    submit(fleet, [1, 2, 3], handle=0, params=greedy(6))
    tokens_until(fleet, seen, 2)
    broken = breaking_off(fleet)
    with pytest.raises(NotPossibleError, match="the engine sleeps; give whole ones"):
        fleet.administer(UpdateWeights(weights=broken))
    with pytest.raises(NotPossibleError, match="give new ones"):
        fleet.administer(Wake())  # a step is in flight, so it does not sleep yet
    run(fleet, seen)
    assert len(seen.tokens[0]) < 6  # it waits
    with pytest.raises(NotPossibleError, match="give new ones"):
        fleet.administer(Wake())
    give(fleet, factor=1, scale=1, then="keep")
    fleet.administer(Wake())
    run(fleet, seen)
    assert seen.tokens[0] == expected([1, 2, 3], count=6)
    assert fleet.stats().losses == 0


def test_streamed_weights_that_break_off_in_a_sleep_have_to_be_given_anew() -> None:
    fleet, seen = toy_fleet(devices=1), Transcript()
    fleet.administer(Sleep(level=2))
    broken = breaking_off(fleet)
    with pytest.raises(NotPossibleError, match="has whole ones any more"):
        fleet.administer(UpdateWeights(weights=broken))
    with pytest.raises(NotPossibleError, match="give new ones"):
        fleet.administer(Wake())
    give(fleet, factor=1, scale=1, then="keep")
    fleet.administer(Wake())
    submit(fleet, [1, 2, 3], handle=0, params=greedy(6))
    run(fleet, seen)
    assert seen.tokens[0] == expected([1, 2, 3], count=6)


@pytest.mark.parametrize("is_busy", [False, True])
def test_weights_that_their_owner_has_deleted_fail_requests_alone(
    is_busy: bool,
) -> None:
    fleet, seen = toy_fleet(devices=1), Transcript()
    for handle in range(3):
        submit(fleet, [1, 2, 3], handle=handle, params=greedy(9))
    while is_busy and len(seen.tokens.get(2, ())) < 2:
        seen.read(fleet.step())  # one step is in flight
    for array in fleet.instance_pool.held(TOY)[DeviceGroupId(0)].arrays:
        array.delete()
    run(fleet, seen)
    submit(fleet, [4, 5], handle=3, params=greedy(2))
    run(fleet, seen)
    assert {end.reason for end in seen.finished.values()} == {FinishReason.ERROR}
    assert seen.finished.keys() == {0, 1, 2, 3}
    assert all("were deleted" in end.message for end in seen.finished.values())
    assert fleet.conductor.is_at_rest
    assert fleet.load().used_pages == 0
    fleet.probe()
    give(fleet, factor=1, scale=1, then="keep")
    submit(fleet, [1, 2, 3], handle=4, params=greedy(6))
    run(fleet, seen)
    assert seen.tokens[4] == expected([1, 2, 3], count=6)
    assert fleet.stats().losses == 0

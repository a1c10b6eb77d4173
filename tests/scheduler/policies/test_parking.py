"""How long an empty instance stays, for epochs of one second."""

import pytest

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.policies.parking import Parking, loads_at_once
from tests.scheduler.policies.layout import add, lay_out


def fleet(*instances: list[int], load_s: float, keeps_last: bool = True) -> Draft:
    spec = ModelSpec(capacity_pages=10, load_s=load_s, keeps_last=keeps_last)
    return lay_out(*instances, spec=spec)


def tell_emptied(parking: Parking, draft: Draft, *devices: int) -> None:
    for device in devices:
        parking.emptied(draft, draft.ledger.instances[DeviceGroupId(device)])


def open_ones(draft: Draft) -> list[int]:
    return [int(device) for device in draft.ledger.instances]


def epoch(parking: Parking, draft: Draft, *, now_s: float) -> list[int]:
    """Those that are open afterwards."""
    draft.ledger.now_s = now_s
    parking.epoch(draft)
    return open_ones(draft)


@pytest.mark.parametrize(("load_s", "is_cheap"), [(0.0, True), (0.9, True), (1, False)])
def test_half_an_epoch_is_not_waited_for(load_s: float, is_cheap: bool) -> None:
    assert loads_at_once(load_s, epoch_s=2.0) == is_cheap


def test_what_loads_at_once_is_parked_at_once() -> None:
    parking, draft = Parking(epoch_s=1.0), fleet([1], [], load_s=0.4)
    tell_emptied(parking, draft, 1)
    assert open_ones(draft) == [0]


def test_what_loads_in_three_seconds_is_parked_after_three() -> None:
    parking, draft = Parking(epoch_s=1.0), fleet([1], [], [], load_s=3.0)
    draft.ledger.now_s = 5.0
    tell_emptied(parking, draft, 1)
    draft.ledger.now_s = 6.0
    tell_emptied(parking, draft, 1, 2)  # said again: it counts from the first time
    assert epoch(parking, draft, now_s=7.9) == [0, 1, 2]
    assert epoch(parking, draft, now_s=8.0) == [0, 2]
    assert epoch(parking, draft, now_s=9.0) == [0]


def test_what_is_used_again_is_counted_anew() -> None:
    parking, draft = Parking(epoch_s=1.0), fleet([1], [], [], load_s=3.0)
    tell_emptied(parking, draft, 1, 2)
    request = add(draft.ledger, 1)
    draft.ledger.settle(request, DeviceGroupId(1))
    assert epoch(parking, draft, now_s=1.0) == [0, 1, 2]
    draft.ledger.settle(request, None)
    draft.ledger.now_s = 2.0
    tell_emptied(parking, draft, 1)
    assert epoch(parking, draft, now_s=3.0) == [0, 1]
    assert epoch(parking, draft, now_s=4.9) == [0, 1]
    assert epoch(parking, draft, now_s=5.0) == [0]


def test_the_last_one_stays_until_it_is_not_the_last() -> None:
    parking, draft = Parking(epoch_s=1.0), fleet([], load_s=0.0)
    tell_emptied(parking, draft, 0)
    assert epoch(parking, draft, now_s=9.0) == [0]
    draft.ledger.add_idle(DeviceGroupId(1))
    draft.activate(ONLY_MODEL)
    assert epoch(parking, draft, now_s=9.0) == [1]
    assert epoch(parking, draft, now_s=9.0) == [1]


def test_the_one_that_was_emptied_last_is_used_again_first() -> None:
    parking, draft = Parking(epoch_s=1.0), fleet([1], [], [], [], load_s=3.0)
    assert parking.latest(draft, ONLY_MODEL) is None
    tell_emptied(parking, draft, 1, 3, 2)
    instances = draft.ledger.instances

    def latest() -> int | None:
        found = parking.latest(draft, ONLY_MODEL)
        return None if found is None else int(found.device)

    assert latest() == 2
    instances[DeviceGroupId(2)].is_closing = True
    assert latest() == 3
    draft.ledger.settle(add(draft.ledger, 1), DeviceGroupId(3))
    assert latest() == 1
    draft.park(instances[DeviceGroupId(1)])
    assert latest() is None

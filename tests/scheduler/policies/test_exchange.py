"""Dear devices are emptied into cheaper ones, if moves and loading are paid for.

BIG holds 20 pages and SMALL 10; see `kinds_fleet`.
"""

from dataclasses import replace

import pytest

from mell_jax.scheduler.ids import DeviceGroupId, KindId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.kind import DeviceKind
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.budget import Budget
from mell_jax.scheduler.policies.closing import Closing
from mell_jax.scheduler.policies.volume import Volume
from tests.scheduler.kinds_fleet import BIG, CHEAP_BIG, CHEAP_SMALL, SMALL, KindsFleet
from tests.scheduler.policies.layout import add, homes

FREE = PolicyConfig(move_price_s=1e-6, look_s=0.0)


def with_spec(
    kinds: dict[KindId, DeviceKind], **fields: float
) -> dict[KindId, DeviceKind]:
    """The kinds with other fields in the specs of both."""
    return {
        name: replace(
            kind, models={ONLY_MODEL: replace(kind.models[ONLY_MODEL], **fields)}
        )
        for name, kind in kinds.items()
    }


def left_on_big(
    config: PolicyConfig = FREE,
    *,
    kinds: dict[KindId, DeviceKind] = CHEAP_SMALL,
    peak: int | None = None,
) -> KindsFleet:
    """A request of 3 pages on a big device that a larger one has left."""
    fleet = KindsFleet("consolidate", kinds=kinds, config=config)
    fleet.arrive(0, 15)
    fleet.arrive(1, 3, peak=peak)
    fleet.finish(0)
    assert fleet.sizes == {0: [3]}
    return fleet


def test_what_is_left_on_a_dear_device_goes_to_a_cheap_one() -> None:
    fleet = left_on_big()
    assert fleet.tick() == ["open 100 small", "move 1 to 100", "park 0"]
    assert fleet.price == 1.0


def test_it_stays_where_moves_are_dear() -> None:
    assert left_on_big(replace(FREE, move_price_s=1e9)).tick() == []


def test_it_stays_where_loading_takes_longer_than_the_room_lasts() -> None:
    """7 pages of margin last 49 * 60 / (15^2 + 3^2 + 15^2) = 6.4 s.

    They save 2.0 an hour meanwhile, and loading costs 1.0 an hour for as long.
    """
    soon = with_spec(CHEAP_SMALL, load_s=5.0)
    late = with_spec(CHEAP_SMALL, load_s=14.0)
    assert left_on_big(kinds=soon).tick()[0] == "open 100 small"
    assert left_on_big(kinds=late).tick() == []


def test_it_stays_where_its_peak_would_not_fit() -> None:
    assert left_on_big(peak=11).tick() == []


def test_a_dear_device_is_emptied_into_several_cheap_ones() -> None:
    fleet = KindsFleet("consolidate", config=FREE)
    fleet.arrive(0, 15)
    fleet.arrive(1, 5)
    fleet.finish(0)
    fleet.arrive(2, 8)
    assert fleet.sizes == {0: [5, 8]}
    fleet.tick()
    assert fleet.sizes == {100: [8], 101: [5]}
    assert fleet.price == 2.0


def test_several_devices_are_emptied_into_one_that_costs_less() -> None:
    fleet = KindsFleet("consolidate", kinds=CHEAP_BIG, config=FREE)
    for request in range(3):
        fleet.arrive(request, 6)
    assert (fleet.sizes, fleet.price) == ({100: [6], 101: [6], 102: [6]}, 3.0)
    fleet.tick()
    fleet.tick()
    assert (fleet.sizes, fleet.price) == ({0: [6, 6, 6]}, 1.5)


def test_what_does_not_fit_uncut_is_left_alone() -> None:
    """18 pages would fit two devices of ten, but no two of 6 fit one."""
    spec = ModelSpec(capacity_pages=10)
    kinds = {
        BIG: DeviceKind(models={ONLY_MODEL: spec}, price_per_hour=1.4),
        SMALL: DeviceKind(models={ONLY_MODEL: spec}, price_per_hour=1.0),
    }
    fleet = KindsFleet("consolidate", kinds=kinds, small=0, config=FREE)
    for request in range(3):
        fleet.arrive(request, 6)
    for number in range(2):
        fleet.add(100 + number, SMALL)
    fleet.tick()
    assert sorted(len(sizes) for sizes in fleet.sizes.values()) == [1, 1, 1]


def test_links_may_carry_only_some_of_them_in_one_epoch() -> None:
    """A device takes in 12 pages an epoch; the third is closed at the next."""
    kinds = with_spec(CHEAP_BIG, page_bytes=1.0, page_tokens=1000)
    config = replace(FREE, link_bytes_per_s=12.0, prefill_tokens_per_s=1.0)
    fleet = KindsFleet("consolidate", kinds=kinds, config=config)
    for request in range(3):
        fleet.arrive(request, 6)
    fleet.tick()
    assert fleet.sizes == {0: [6, 6], 102: [6]}
    fleet.tick()
    assert fleet.sizes == {0: [6, 6, 6]}


def test_nothing_goes_where_no_device_is_idle() -> None:
    fleet = KindsFleet("consolidate", big=1, small=0, config=FREE)
    fleet.arrive(0, 3)
    assert fleet.tick() == []


@pytest.mark.parametrize("capacity", [10, 20])
def test_devices_that_are_alike_are_not_exchanged(capacity: int) -> None:
    spec = ModelSpec(capacity_pages=capacity)
    alike = DeviceKind(models={ONLY_MODEL: spec})
    fleet = KindsFleet("consolidate", kinds={BIG: alike, SMALL: alike}, config=FREE)
    for request in range(3):
        fleet.arrive(request, 6)
        assert fleet.tick() == []


def test_what_saves_most_is_closed_first() -> None:
    """Without the big one 17 pages stay free, which is worth 17^2 times its price."""
    ledger = Ledger(CHEAP_SMALL[BIG].models, look_s=0.0, kinds=CHEAP_SMALL)
    for device, kind in ((0, BIG), (100, SMALL), (101, SMALL)):
        ledger.add_idle(DeviceGroupId(device), kind=kind)
        ledger.open(DeviceGroupId(device), ONLY_MODEL)
        ledger.settle(add(ledger, 1), DeviceGroupId(device))
    volume = Volume(price_s=0.001)
    volume.note(ledger, ONLY_MODEL, pages=10)
    closing = Closing(volume=volume, budget=Budget(FREE), epoch_s=1.0)
    draft = Draft(ledger)
    assert closing.close(draft, ONLY_MODEL)
    assert homes(draft) == [100, 100, 101]

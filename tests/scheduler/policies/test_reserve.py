"""Room for what is lost, on pictures of instances of ten pages."""

import pytest

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.budget import Budget
from mell_jax.scheduler.policies.closing import Closing
from mell_jax.scheduler.policies.reserve import NO_RESERVE, Reserve
from mell_jax.scheduler.policies.volume import Volume
from tests.scheduler.kinds_fleet import BIG, CHEAP_SMALL, SMALL, KindsFleet
from tests.scheduler.policies.layout import add, lay_out, sizes

ONE, TWO = Reserve(count=1), Reserve(count=2)
RESERVED = PolicyConfig(reserve=1, look_s=0.0)


@pytest.mark.parametrize(
    ("picture", "lacks"),
    [
        ([[3]], 3),  # 7 are free, the one device may be lost
        ([[3], []], 0),
        ([[9], [8], [2]], 0),  # 11 are free
        ([[9], [8], [4]], 1),
        ([[], []], 0),  # nobody needs any
    ],
)
def test_as_much_is_free_as_the_largest_device_holds(
    picture: list[list[int]], lacks: int
) -> None:
    ledger = lay_out(*picture).ledger
    assert ONE.lacks(ledger, ONLY_MODEL) == lacks
    assert NO_RESERVE.lacks(ledger, ONLY_MODEL) == 0


def test_two_devices_have_twice_the_reserve() -> None:
    assert TWO.lacks(lay_out([9], [8], [2], []).ledger, ONLY_MODEL) == 0
    assert TWO.lacks(lay_out([9], [8], [4]).ledger, ONLY_MODEL) == 11


def test_of_several_kinds_the_largest_in_use_counts() -> None:
    fleet = KindsFleet(kinds=CHEAP_SMALL)
    fleet.arrive(0, 8)
    ledger = fleet.machine.ledger
    small, big = ledger.kinds(ONLY_MODEL)
    assert (small.kind, big.kind) == (SMALL, BIG)
    assert ONE.pages(ledger, ONLY_MODEL) == 10
    fleet.arrive(1, 15)
    assert ONE.pages(ledger, ONLY_MODEL) == 20
    assert TWO.pages(ledger, ONLY_MODEL) == 30
    assert ONE.pages(ledger, ONLY_MODEL, less=[big]) == 10
    assert ONE.pages(ledger, ONLY_MODEL, less=[big, small]) == 0


def test_requests_have_to_fit_uncut() -> None:
    """11 pages are free in both, but only where they lie together a 9 fits."""
    assert not ONE.is_safe(lay_out([9], [6], [7], [7]).ledger, ONLY_MODEL)
    assert ONE.is_safe(lay_out([9], [10], [10], []).ledger, ONLY_MODEL)
    assert ONE.is_safe(lay_out([3, 3, 3], [6], [7], [7]).ledger, ONLY_MODEL)


def test_requests_have_to_fit_kinds_that_can_hold_their_peaks() -> None:
    fleet = KindsFleet(kinds=CHEAP_SMALL)
    fleet.arrive(0, 8, peak=15)
    fleet.arrive(1, 16)  # a big one that 4 pages are free on
    fleet.arrive(2, 6)
    fleet.arrive(3, 5)
    assert fleet.sizes == {0: [8, 6, 5], 1: [16]}
    fleet.finish(1)
    fleet.arrive(4, 5)
    fleet.arrive(5, 6)
    assert fleet.sizes == {0: [8, 6, 5], 100: [5], 101: [6]}
    assert not ONE.is_safe(fleet.machine.ledger, ONLY_MODEL)


def test_a_device_stands_by_for_the_first_request() -> None:
    fleet = KindsFleet("consolidate", config=RESERVED)
    said = fleet.arrive(0, 5)
    assert sorted(said) == ["open 100 small", "open 101 small", "place 0 on 100"]
    assert fleet.arrive(1, 5) == ["place 1 on 100"]
    assert fleet.sizes == {100: [5, 5], 101: []}


def test_what_is_lost_goes_where_room_was_kept_and_another_stands_by() -> None:
    fleet = KindsFleet("consolidate", config=RESERVED)
    fleet.arrive(0, 5)
    fleet.arrive(1, 5)
    said = fleet.lose(100)
    assert said[:2] == ["preempt 1", "preempt 0"]
    assert [each for each in said if each.startswith("place")] == [
        "place 0 on 101",
        "place 1 on 101",
    ]
    assert fleet.sizes == {101: [5, 5], 102: []}


def test_without_a_reserve_a_device_is_opened_after_the_loss() -> None:
    fleet = KindsFleet("consolidate", config=PolicyConfig(look_s=0.0))
    fleet.arrive(0, 5)
    assert fleet.sizes == {100: [5]}
    assert fleet.lose(100) == ["preempt 0", "open 101 small", "place 0 on 101"]


def test_what_stands_by_is_large_enough_for_the_largest_request() -> None:
    fleet = KindsFleet("consolidate", config=RESERVED)
    fleet.arrive(0, 2, peak=15)
    assert fleet.sizes == {0: [2], 1: []}


def test_anything_is_better_than_no_reserve() -> None:
    fleet = KindsFleet("consolidate", big=1, config=RESERVED)
    fleet.arrive(0, 2, peak=15)  # one big device is all there is: small ones stand by
    assert fleet.sizes == {0: [2], 100: []}


def test_what_grows_is_made_up_for() -> None:
    fleet = KindsFleet("consolidate", config=RESERVED)
    fleet.arrive(0, 5)
    fleet.arrive(1, 5)
    fleet.arrive(2, 8)
    assert fleet.sizes == {100: [5, 5], 101: [8], 102: []}
    fleet.grow(2, 9)
    assert fleet.tick() == []
    fleet.arrive(3, 2)
    fleet.arrive(4, 1)
    assert sorted(map(sum, fleet.sizes.values())) == [0, 2, 10, 10]


def test_a_packing_may_ask_for_one_more_at_an_epoch() -> None:
    """12 pages are free, but a request of 9 fits nowhere."""
    draft = lay_out([9], [6], [7], [6], idle=3)
    ONE.fill(draft, ONLY_MODEL)
    assert len(draft.kept) == 0
    ONE.fill(draft, ONLY_MODEL, is_epoch=True)
    assert [instance.device for instance in draft.kept] == [4]
    assert sizes(draft) == {0: [9], 1: [6], 2: [7], 3: [6], 4: []}


def test_no_device_is_opened_in_vain_for_a_packing() -> None:
    """A request of 15 fits big devices only, and there is no other."""
    fleet = KindsFleet("consolidate", big=1, small=8, config=RESERVED)
    fleet.arrive(0, 15)
    for _ in range(5):
        fleet.tick()
    assert fleet.sizes == {0: [15], 100: [], 101: []}  # 20 pages by volume, no more


def test_room_that_lies_together_is_not_closed() -> None:
    """Three of 3 free pages and one of 10 are enough by volume without the last."""
    draft = lay_out([9], [6], [6], [6], [])
    volume = Volume(price_s=1e-6, reserve=ONE)
    for reserve, left in ((ONE, 5), (NO_RESERVE, 4)):
        closing = Closing(
            volume=volume, budget=Budget(RESERVED), epoch_s=1.0, reserve=reserve
        )
        closing.close(draft, ONLY_MODEL)
        assert len(sizes(draft)) == left


def test_a_reserve_is_closed_when_nobody_is_left() -> None:
    fleet = KindsFleet("consolidate", config=RESERVED)
    fleet.arrive(0, 5)
    fleet.tick()
    assert len(fleet.sizes) == 2
    fleet.finish(0)
    fleet.tick()
    assert fleet.sizes == {100: []}  # the last of a model stays, as ever


def test_lost_requests_go_to_instances_that_are_ready() -> None:
    spec = ModelSpec(capacity_pages=10, load_s=5.0)
    draft = lay_out([6], [1], [2], spec=spec)
    ledger = draft.ledger
    lost = add(ledger, 3)
    assert NO_RESERVE.find(ledger, lost) is None
    assert ONE.find(ledger, lost) is None  # all are loading
    ledger.now_s = 5.0
    ledger.instances[DeviceGroupId(0)].opened_s = 1.0
    assert ONE.find(ledger, lost) == 2  # the fullest of those that are ready
    assert ONE.find(ledger, add(ledger, 9)) == 1
    assert ONE.find(ledger, add(ledger, 10)) is None


def test_lost_requests_go_on_at_once_where_there_is_no_room_to_grow() -> None:
    spec = ModelSpec(capacity_pages=10, growth_pages_per_s=1.0)
    ledger = lay_out([4], [5], spec=spec, look_s=2.0).ledger
    assert ledger.best_fit(ONLY_MODEL, 5) is None
    assert ONE.find(ledger, add(ledger, 5)) == 0

"""What is opened goes by what is needed and by how the volume varies."""

import pytest

from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.policies.opening import Opening, cost
from mell_jax.scheduler.policies.volume import Volume
from tests.scheduler.kinds_fleet import BIG, CHEAP_BIG, CHEAP_SMALL, SMALL, KindsFleet
from tests.scheduler.policies.layout import add, lay_out


def test_a_kind_costs_its_price_until_it_is_full_and_in_proportion_beyond() -> None:
    big, small = KindsFleet(kinds=CHEAP_BIG).machine.ledger.kinds(ONLY_MODEL)
    assert [cost(small, pages=p) for p in (1, 10, 15)] == [1.0, 1.0, 1.5]
    assert [cost(big, pages=p) for p in (1, 20, 40)] == [1.5, 1.5, 3.0]


@pytest.mark.parametrize(
    ("came", "kind"),
    [
        ([], SMALL),  # 2 pages: 1.0 against 1.5
        ([20], SMALL),  # 10 more in a quarter of a minute: 1.2 against 1.5
        ([20, 20], BIG),  # 14.1 more: 1.6 against 1.5
    ],
)
def test_the_more_comes_and_goes_the_larger_a_device_is_opened(
    came: list[int], kind: str
) -> None:
    ledger = KindsFleet(kinds=CHEAP_BIG).machine.ledger
    volume = Volume(price_s=1.0)
    for pages in came:
        volume.note(ledger, ONLY_MODEL, pages=pages)
    assert Opening(volume).choose(ledger, add(ledger, 2)) == kind


def test_only_kinds_that_are_idle_and_large_enough_are_chosen() -> None:
    opening = Opening(Volume(price_s=1.0))
    ledger = KindsFleet(kinds=CHEAP_SMALL, small=0).machine.ledger
    assert opening.choose(ledger, add(ledger, 2)) == BIG
    ledger = KindsFleet(kinds=CHEAP_SMALL).machine.ledger
    assert opening.choose(ledger, add(ledger, 11)) == BIG
    ledger = KindsFleet(kinds=CHEAP_SMALL, big=0, small=0).machine.ledger
    assert opening.choose(ledger, add(ledger, 2)) is None


def test_of_one_kind_there_is_no_choice() -> None:
    ledger = lay_out([1], idle=3).ledger
    assert Opening(Volume(price_s=1.0)).choose(ledger, add(ledger, 2)) is None

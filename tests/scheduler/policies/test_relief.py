"""Which requests leave an instance that is too full, by hand and by enumeration."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.policies.relief import cover, reserve_of, shed
from tests.scheduler.policies.layout import homes, lay_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    pages: int


def covered(*pages: int, lack: int) -> list[int]:
    return [item.pages for item in cover([Item(pages=p) for p in pages], lack)]


def test_the_smallest_that_is_enough_goes_alone() -> None:
    assert covered(7, 3, 5, 2, lack=4) == [5]
    assert covered(7, 3, 5, 2, lack=5) == [5]
    assert covered(4, lack=1) == [4]


def test_else_the_largest_goes_and_what_covers_the_rest() -> None:
    assert covered(7, 3, 5, 2, lack=9) == [7, 2]
    assert covered(7, 3, 5, 2, lack=11) == [7, 5]
    assert covered(7, 3, 5, 2, lack=16) == [7, 5, 3, 2]


def test_all_go_where_all_are_not_enough_and_none_where_nothing_lacks() -> None:
    assert covered(1, 2, lack=9) == [2, 1]
    assert covered(1, 2, lack=0) == covered(lack=3) == []


@given(st.lists(st.integers(1, 9), max_size=6), st.integers(1, 30))
def test_nobody_goes_for_nothing(pages: list[int], lack: int) -> None:
    found = covered(*pages, lack=lack)
    assert sum(found) >= min(lack, sum(pages))
    assert not found or sum(found[:-1]) < lack


def test_a_reserve_is_a_fraction_of_an_instance_rounded_down() -> None:
    assert reserve_of(0.15)(25) == 3


def test_shedding_ends_where_nobody_takes_the_next() -> None:
    draft = lay_out([3, 2, 4], [], [])
    instance = draft.ledger.instances[DeviceGroupId(0)]
    asked = []

    def find(draft: Draft, request: RequestAccount) -> InstanceAccount | None:
        asked.append(request.pages)
        return {4: draft.ledger.instances[DeviceGroupId(2)], 3: instance}.get(
            request.pages
        )

    shed(draft, instance, lack=9, find=find)
    assert asked == [4, 3]
    assert homes(draft) == [0, 0, 2]
    draft.rollback()
    shed(draft, instance, lack=2, find=find)
    assert asked == [4, 3, 2]
    assert homes(draft) == [0, 0, 0]

"""The guarantee and its repacking, on pictures of instances of ten pages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.bounds import first_fit_decreasing
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.policies import guard
from tests.scheduler.policies.layout import homes, lay_out, sizes


def is_exceeded(*instances: list[int]) -> bool:
    return guard.is_exceeded(lay_out(*instances).ledger, ONLY_MODEL)


def repacked(*instances: list[int]) -> list[int | None]:
    draft = lay_out(*instances)
    guard.repack(draft, ONLY_MODEL)
    draft.ledger.check()
    return homes(draft)


@pytest.mark.parametrize(
    ("used", "is_one_too_many"), [(3, False), (4, True), (5, True)]
)
def test_ten_pages_may_have_three_instances(used: int, is_one_too_many: bool) -> None:
    """4/3 of one, and two, are three and a third."""
    pages = [[10 - used + 1], *([1] for _ in range(used - 1))]
    assert is_exceeded(*pages) == is_one_too_many


def test_thirty_pages_may_have_six() -> None:
    assert not is_exceeded([10], [10], [7], [1], [1], [1])
    assert is_exceeded([10], [10], [6], [1], [1], [1], [1])


def test_pages_that_fill_an_instance_in_part_count_as_a_whole_one() -> None:
    assert not is_exceeded([10], [10], [1], [1], [1], [1])  # 24 pages need three
    assert is_exceeded([10], [6], [1], [1], [1], [1])


def test_the_bound_counts_and_not_the_volume_alone() -> None:
    """Six of 6 pages need six instances, 36 pages four: up to 10 may be in use."""
    assert not is_exceeded(*[[6]] * 6, [1], [1])
    assert is_exceeded([6], [6], [6], [1], [1], [1], [1])


def test_those_that_are_empty_do_not_count() -> None:
    assert not is_exceeded([5], [1], [1], *[[] for _ in range(9)])


def test_nothing_is_exceeded_where_there_is_nothing() -> None:
    assert not is_exceeded()
    assert not is_exceeded([], [], [], [])


def test_a_group_stays_where_most_of_it_is() -> None:
    """First fit puts together 6 and 4, and 5 and 3: the 4 and the 3 move."""
    assert repacked([3, 4], [6], [5]) == [2, 1, 1, 2]


def test_of_two_groups_on_one_instance_the_larger_part_keeps_it() -> None:
    """The 7 stays, the 3 comes to it; the 1 leaves it for the 2."""
    assert repacked([7, 1], [6], [3], [4], [2]) == [0, 4, 1, 0, 1, 4]


def test_a_group_of_which_nothing_may_stay_takes_what_is_free() -> None:
    """d0 is given back; the 5 and the 4 of it go together to the other instance."""
    draft = lay_out([5, 4], [])
    first = draft.ledger.instances[DeviceGroupId(0)]
    first.is_closing = True
    draft.ledger.refile(first)
    guard.repack(draft, ONLY_MODEL)
    assert homes(draft) == [1, 1]


def test_where_first_fit_needs_more_instances_all_stay() -> None:
    """First fit has 4 and 4 on one, three of 3 on the next, and a 3 that is left."""
    draft = lay_out([3, 3, 4], [3, 3, 4])
    guard.repack(draft, ONLY_MODEL)
    assert not draft.is_touched


def test_a_group_that_is_too_large_for_its_place_stays_where_first_fit_put_it() -> None:
    """4 pages of d0 are reserved. First fit puts the 5 there, and 3, 3 and 2 on d1;
    most of these come from d0, where they do not fit."""
    draft = lay_out([3, 3], [5, 2])
    first = draft.ledger.instances[DeviceGroupId(0)]
    draft.ledger.charge(first, pages=4, rows=1)
    guard.repack(draft, ONLY_MODEL)
    assert homes(draft) == [1, 1, 0, 1]


LAYOUTS = st.lists(
    st.lists(st.integers(1, 10), max_size=4).filter(lambda sizes: sum(sizes) <= 10),
    max_size=7,
)


@given(LAYOUTS)
def test_a_repacking_uses_as_many_as_first_fit_decreasing(
    layout: list[list[int]],
) -> None:
    draft = lay_out(*layout)
    flat = np.array([size for sizes in layout for size in sizes], np.int64)
    guard.repack(draft, ONLY_MODEL)
    draft.ledger.check()
    fewest = first_fit_decreasing(flat, capacity=10)
    if fewest > len(layout):
        assert not draft.is_touched
        return
    assert sum(bool(each) for each in sizes(draft).values()) == fewest

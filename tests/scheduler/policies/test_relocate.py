"""Chains of moves on fleets of ten pages an instance, by hand and by brute force."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.policies.relocate import Relocation
from tests.scheduler.policies.layout import add, homes, lay_out


def find(
    draft: Draft,
    pages: int,
    *,
    skip: tuple[int, ...] = (),
    depth: int = 1,
    budget_pages: int = 100,
    max_tries: int = 200,
) -> list[int | None] | None:
    """Where everything is once a new request of `pages` has room; None: nowhere."""
    request = add(draft.ledger, pages)
    found = Relocation(draft, max_tries=max_tries).find(
        request,
        skip=frozenset(map(DeviceGroupId, skip)),
        depth=depth,
        budget_pages=budget_pages,
    )
    draft.ledger.check()
    if not found:
        assert not draft.is_touched, "something is left in the draft"
        return None
    return homes(draft)


def test_the_fullest_with_room_is_taken_and_nothing_moves() -> None:
    assert find(lay_out([5], [7], [8]), 3) == [0, 1, 2, 1]
    assert find(lay_out([5], [7], [8]), 3, skip=(1,)) == [0, 1, 2, 0]


def test_a_smaller_one_makes_room_where_nobody_has_it() -> None:
    assert find(lay_out([7, 2], [6, 2]), 3) == [0, 1, 1, 1, 0]


def test_of_those_in_the_way_the_smallest_goes_and_of_equals_the_oldest() -> None:
    assert find(lay_out([5, 2, 2], [4, 3, 1]), 3) == [0, 0, 0, 1, 1, 0, 1]
    assert find(lay_out([5, 2, 2], [4, 4]), 3) == [0, 1, 0, 1, 1, 0]


def test_nobody_moves_whose_leaving_makes_no_room() -> None:
    full = [9], [8]
    assert find(lay_out([6, 1, 2], [5, 3], *full), 3) == [0, 0, 1, 1, 1, 2, 3, 0]


def test_the_emptiest_may_be_one_that_is_not_to_be_used() -> None:
    draft = lay_out([7, 2], [6, 2], [1])
    assert find(draft, 3, skip=(2,)) == [0, 1, 1, 1, 2, 0]


def test_no_more_pages_move_than_the_budget_has() -> None:
    assert find(lay_out([7, 2], [6, 2]), 3, budget_pages=2) is not None
    assert find(lay_out([7, 2], [6, 2]), 3, budget_pages=1) is None


def test_a_chain_is_as_long_as_it_may_be() -> None:
    """The 4 wants the place of the 3, that the place of the 2, and that a page more."""
    assert find(lay_out([6, 3], [7, 2], [8]), 4, depth=0) is None
    assert find(lay_out([6, 3], [7, 2], [8]), 4, depth=1) is None
    assert find(lay_out([6, 3], [7, 2], [8]), 4, depth=2) == [0, 1, 1, 2, 2, 0]


def test_the_budget_is_that_of_the_whole_chain() -> None:
    assert find(lay_out([6, 3], [7, 2], [8]), 4, depth=2, budget_pages=5) is not None
    assert find(lay_out([6, 3], [7, 2], [8]), 4, depth=2, budget_pages=4) is None


def test_the_room_that_one_leaves_is_not_taken_by_those_who_make_room_for_it() -> None:
    """The 3 leaves for the 4; were the 2 to go where the 3 was, there would be none."""
    assert find(lay_out([6, 3], [7, 2]), 4, depth=2) is None


def test_so_many_are_tried_and_no_more() -> None:
    """Neither 3 has another place; the first 4, tried third, has one beside them."""
    assert find(lay_out([3, 3], [4, 4]), 6, max_tries=2) is None
    assert find(lay_out([3, 3], [4, 4]), 6, max_tries=3) == [0, 0, 0, 1, 1]


def test_only_the_eight_emptiest_are_looked_at() -> None:
    """Room of 2 on eight of them, of 1 on the ninth, whose 2 could go to any."""
    crowd = [[8] for _ in range(7)]
    assert find(lay_out(*crowd, [7, 2]), 3) is not None
    assert find(lay_out(*crowd, [8], [7, 2]), 3) is None


LAYOUTS = st.lists(
    st.lists(st.integers(1, 10), max_size=4).filter(lambda sizes: sum(sizes) <= 10),
    min_size=1,
    max_size=4,
)


@given(layout=LAYOUTS, pages=st.integers(1, 10), budget_pages=st.integers(0, 10))
def test_one_move_is_found_whenever_there_is_one_and_it_is_the_cheapest(
    layout: list[list[int]], pages: int, budget_pages: int
) -> None:
    free = [10 - sum(sizes) for sizes in layout]
    costs = [0] if max(free) >= pages else []
    for (home, sizes), to in itertools.product(enumerate(layout), range(len(layout))):
        costs += [
            size
            for size in sizes
            if to != home
            and size <= budget_pages
            and size <= free[to]
            and pages <= free[home] + size
        ]
    draft = lay_out(*layout)
    found = find(draft, pages, budget_pages=budget_pages)
    assert (found is not None) == bool(costs)
    if costs:
        assert sum(request.pages for request, _, _ in draft.moves()) == min(costs)

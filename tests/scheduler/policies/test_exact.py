"""Exact packings of few bins against enumeration, and by hand."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.policies.exact import PackItem, can_carry_out, close_one

Sizes = list[tuple[int, int]]  # size, home


def pack_items(sizes: Sizes) -> list[PackItem]:
    return [PackItem(size=size, home=home) for size, home in sizes]


def close(
    sizes: Sizes,
    *,
    rooms: list[int],
    closing: int = 0,
    max_cost: int = 100,
    max_nodes: int = 10**6,
) -> list[int] | None:
    return close_one(
        pack_items(sizes),
        rooms=rooms,
        closing=closing,
        max_cost=max_cost,
        max_nodes=max_nodes,
    )


def test_what_is_on_it_goes_and_the_rest_stays() -> None:
    assert close([(3, 0), (6, 1), (5, 2)], rooms=[10, 10, 10]) == [1, 1, 2]
    assert close([(3, 1), (6, 0), (5, 2)], rooms=[10, 10, 10], closing=1) == [0, 0, 2]


def test_pages_that_move_may_be_as_many_as_the_limit() -> None:
    assert close([(3, 0), (6, 1)], rooms=[10, 10], max_cost=3) == [1, 1]
    assert close([(3, 0), (6, 1)], rooms=[10, 10], max_cost=2) is None


def test_a_bin_is_filled_to_its_last_page_and_no_further() -> None:
    assert close([(4, 0), (6, 1)], rooms=[10, 10]) == [1, 1]
    assert close([(5, 0), (6, 1)], rooms=[10, 10]) is None
    assert close([(5, 0), (6, 1)], rooms=[10, 11]) == [1, 1]


def test_bins_have_rooms_of_their_own() -> None:
    assert close([(4, 0), (6, 1), (1, 2)], rooms=[10, 9, 5]) == [2, 1, 2]


def test_the_search_ends_after_so_many_nodes() -> None:
    """One node for each item: its home, or the only bin that is left."""
    sizes = [(3, 0), (6, 1)]
    assert close(sizes, rooms=[10, 10], max_nodes=2) == [1, 1]
    assert close(sizes, rooms=[10, 10], max_nodes=1) is None


def test_a_packing_that_nobody_could_carry_out_is_none() -> None:
    """The 4 fits beside the 3 alone, where the 6 goes first; then that has to wait."""
    assert close([(4, 0), (6, 1), (3, 2)], rooms=[4, 7, 6]) is None


def test_a_move_may_wait_for_the_room_that_another_leaves() -> None:
    items = pack_items([(6, 0), (5, 1), (4, 1)])
    assert can_carry_out(items, [1, 2, 2], rooms=[10, 10, 10])
    assert not can_carry_out(items, [1, 2, 2], rooms=[10, 10, 8])


def test_room_for_a_copy_has_to_be_there_before_a_move_begins() -> None:
    items = pack_items([(6, 0), (5, 1)])
    assert can_carry_out(items, [1, 0], rooms=[11, 11])
    assert can_carry_out(items, [1, 0], rooms=[11, 10])
    assert can_carry_out(items, [1, 0], rooms=[10, 11])
    assert not can_carry_out(items, [1, 0], rooms=[10, 10])


def ends(moves: list[tuple[int, int, int]], free: list[int]) -> set[bool]:
    """Whether all are done, in every order in which moves can begin one by one."""
    if not moves:
        return {True}
    found = set()
    for at, (size, home, to) in enumerate(moves):
        if free[to] >= size:
            after = list(free)
            after[to] -= size
            after[home] += size
            found |= ends(moves[:at] + moves[at + 1 :], after)
    return found or {False}


@given(
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)), max_size=4),
    bins=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    spare=st.lists(st.integers(0, 4), min_size=3, max_size=3),
)
def test_moves_are_carried_out_in_an_order_that_works(
    sizes: Sizes, bins: list[int], spare: list[int]
) -> None:
    moves = [
        (size, home, to)
        for (size, home), to in zip(sizes, bins, strict=False)
        if home != to
    ]
    loads = [sum(size for size, home in sizes if home == n) for n in range(3)]
    rooms = [load + more for load, more in zip(loads, spare, strict=True)]
    how = ends(moves, spare)
    found = can_carry_out(pack_items(sizes), bins[: len(sizes)], rooms=rooms)
    assert found in how


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), max_size=6),
    rooms=st.lists(st.integers(6, 12), min_size=3, max_size=3),
    closing=st.integers(0, 2),
    max_cost=st.integers(0, 20),
)
def test_the_cheapest_packing_is_found_if_there_is_one(
    sizes: Sizes, rooms: list[int], closing: int, max_cost: int
) -> None:
    loads = [sum(size for size, home in sizes if home == at) for at in range(3)]
    if any(load > room for load, room in zip(loads, rooms, strict=True)):
        return
    cheapest: list[tuple[int, ...]] = []
    least = max_cost
    for bins in itertools.product(range(3), repeat=len(sizes)):
        free = list(rooms)
        free[closing] = 0
        cost = 0
        for (size, home), to in zip(sizes, bins, strict=True):
            free[to] -= size
            cost += size if to != home else 0
        if min(free) < 0 or cost > least:
            continue
        cheapest = [*(cheapest if cost == least else ()), bins]
        least = cost
    items = pack_items(sizes)
    feasible = [can_carry_out(items, bins, rooms=rooms) for bins in cheapest]
    found = close(sizes, rooms=rooms, closing=closing, max_cost=max_cost)
    if found is not None:
        assert tuple(found) in cheapest and can_carry_out(items, found, rooms=rooms)
    else:
        assert not (feasible and all(feasible))

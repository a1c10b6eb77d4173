"""Load balance on instances of 20 pages: gaps above 4 are evened out."""

from tests.scheduler.policy_harness import Fleet, moved


def filled(*sizes: int) -> Fleet:
    fleet = Fleet("load_balance", capacity=20)
    for request, pages in enumerate(sizes):
        fleet.arrive(request, pages)
    return fleet


def test_the_fullest_gives_the_emptiest_up_to_half_the_difference() -> None:
    fleet = filled(5, 5, 6, 5)
    assert fleet.sizes == {0: [6, 5, 5], 1: [5]}
    assert moved(fleet.tick()) == [(0, 0, 1)]
    assert fleet.sizes == {0: [6, 5], 1: [5, 5]}
    assert moved(fleet.tick()) == []


def test_a_request_of_more_than_half_the_difference_stays() -> None:
    fleet = filled(8, 8, 6)
    assert fleet.sizes == {0: [8, 8], 1: [6]}
    assert moved(fleet.tick()) == []


def test_the_second_is_paired_with_the_second() -> None:
    fleet = filled(5, 5, 5, 5, 6, 5, 5, 4, 6, 6)
    assert fleet.sizes == {0: [5, 5, 5, 5], 1: [6, 5, 5, 4], 2: [6, 6]}
    fleet.arrive(10, 9)
    fleet.finish(8)
    assert fleet.sizes == {0: [5, 5, 5, 5], 1: [6, 5, 5, 4], 2: [6], 3: [9]}
    assert moved(fleet.tick()) == [(4, 1, 2), (0, 0, 3)]


def test_the_instance_with_the_fewest_requests_is_emptied_if_the_rest_can_take_it() -> (
    None
):
    fleet = filled(5, 5, 6, 5)
    fleet.finish(1)
    fleet.finish(2)
    assert moved(fleet.tick()) == [(0, 0, 1)]
    assert fleet.sizes == {1: [5, 5]}

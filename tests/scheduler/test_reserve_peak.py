"""Reservation of the peak on instances of 20 pages."""

from mell_jax.scheduler.placement.policy import PolicyConfig
from tests.scheduler.policy_harness import Fleet, counts


def test_requests_are_packed_by_what_they_will_need() -> None:
    fleet = Fleet("reserve_peak", capacity=20)
    for request, (pages, peak) in enumerate([(2, 12), (3, 9), (1, 8), (4, 11)]):
        fleet.arrive(request, pages, peak)
    assert fleet.sizes == {0: [2, 1], 1: [4, 3]}


def test_nothing_moves_when_requests_grow_to_their_peaks() -> None:
    fleet = Fleet("reserve_peak", capacity=20)
    fleet.arrive(0, 2, 12)
    fleet.arrive(1, 1, 8)
    assert fleet.grow(0, 12) == []
    assert fleet.grow(1, 8) == []


def test_an_end_frees_the_peak() -> None:
    fleet = Fleet("reserve_peak", capacity=20, devices=1)
    fleet.arrive(0, 2, 12)
    fleet.arrive(1, 1, 8)
    assert counts(fleet.arrive(2, 1, 8)) == {"Wait": 1}
    assert counts(fleet.finish(1)) == {"Place": 1}


def test_headroom_is_left_free_on_top() -> None:
    config = PolicyConfig(headroom=0.2)
    fleet = Fleet("reserve_peak", capacity=20, config=config)
    fleet.arrive(0, 2, 10)
    fleet.arrive(1, 2, 7)  # 10 + 7 + 4 is more than 20
    fleet.arrive(2, 2, 6)
    assert fleet.sizes == {0: [2, 2], 1: [2]}


def test_without_a_peak_the_present_size_counts() -> None:
    fleet = Fleet("reserve_peak", capacity=20)
    fleet.arrive(0, 12)
    fleet.arrive(1, 8)
    assert fleet.sizes == {0: [12, 8]}

"""Best fit, by hand and against its definition."""

import numpy as np

from mell_jax.scheduler.placement.plan import Place
from mell_jax.scheduler.placement.policy import PolicyConfig
from tests.scheduler.policy_harness import Fleet, counts, moved


def test_the_fullest_instance_with_room_is_taken() -> None:
    fleet = Fleet("best_fit", capacity=10)
    for request, pages in enumerate([7, 6, 4, 3]):
        fleet.arrive(request, pages)
    assert fleet.sizes == {0: [7, 3], 1: [6, 4]}


def test_headroom_is_left_free_while_there_are_devices() -> None:
    config = PolicyConfig(headroom=0.2)
    fleet = Fleet("best_fit", capacity=10, devices=2, config=config)
    for request, pages in enumerate([4, 5, 4]):
        fleet.arrive(request, pages)
    assert fleet.sizes == {0: [4, 4], 1: [5]}
    fleet.arrive(3, 5)
    assert fleet.sizes == {0: [4, 4], 1: [5, 5]}  # better than to wait


def test_overflow_moves_the_smallest_that_is_enough() -> None:
    fleet = Fleet("best_fit", capacity=10)
    for request, pages in enumerate([1, 3, 6]):
        fleet.arrive(request, pages)
    assert moved(fleet.grow(2, 8)) == [(1, 0, 1)]
    assert fleet.sizes == {0: [8, 1], 1: [3]}


def test_overflow_moves_several_where_none_is_enough() -> None:
    fleet = Fleet("best_fit", capacity=10)
    for request, pages in enumerate([1, 4, 5]):
        fleet.arrive(request, pages)
    assert moved(fleet.grow(0, 8)) == [(2, 0, 1), (1, 0, 1)]
    assert fleet.sizes == {0: [8], 1: [5, 4]}


def test_random_arrivals_take_the_least_room_that_is_enough() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        fleet = Fleet("best_fit", capacity=20)
        for request in range(60):
            pages = int(rng.integers(1, 20))
            rooms = {d: 20 - sum(sizes) for d, sizes in fleet.sizes.items()}
            decisions = fleet.arrive(request, pages)
            enough = [room for room in rooms.values() if room >= pages]
            place = next(d for d in decisions if isinstance(d, Place))
            assert counts(decisions)["Activate"] == (not enough)
            assert not enough or rooms[place.device] == min(enough)
            live = list(fleet.live)
            fleet.finish(live[int(rng.integers(len(live)))])
            if rng.random() < 0.3 and fleet.live:
                fleet.finish(next(iter(fleet.live)))

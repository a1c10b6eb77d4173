"""Worst fit, by hand and against its definition."""

import numpy as np

from mell_jax.scheduler.placement.plan import Place
from mell_jax.scheduler.placement.policy import PolicyConfig
from tests.scheduler.policy_harness import Fleet, counts, moved


def test_the_emptiest_instance_is_taken() -> None:
    fleet = Fleet("worst_fit", capacity=10)
    for request, pages in enumerate([7, 4, 2, 3]):
        fleet.arrive(request, pages)
    assert fleet.sizes == {0: [7], 1: [4, 3, 2]}


def test_headroom_is_left_free_while_there_are_devices() -> None:
    config = PolicyConfig(headroom=0.3)
    fleet = Fleet("worst_fit", capacity=10, devices=2, config=config)
    for request, pages in enumerate([4, 4, 2]):
        fleet.arrive(request, pages)
    assert fleet.sizes == {0: [4, 2], 1: [4]}
    fleet.arrive(3, 5)
    assert fleet.sizes == {0: [4, 2], 1: [5, 4]}


def test_overflow_goes_to_the_emptiest_other_instance() -> None:
    fleet = Fleet("worst_fit", capacity=10)
    for request, pages in enumerate([6, 3, 5, 8]):
        fleet.arrive(request, pages)
    assert fleet.sizes == {0: [6, 3], 1: [5], 2: [8]}
    assert moved(fleet.grow(0, 8)) == [(1, 0, 1)]


def test_random_arrivals_take_the_most_room() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        fleet = Fleet("worst_fit", capacity=20)
        for request in range(60):
            pages = int(rng.integers(1, 20))
            rooms = {d: 20 - sum(sizes) for d, sizes in fleet.sizes.items()}
            most = max(rooms.values(), default=0)
            decisions = fleet.arrive(request, pages)
            place = next(d for d in decisions if isinstance(d, Place))
            assert counts(decisions)["Activate"] == (most < pages)
            assert most < pages or rooms[place.device] == most
            if rng.random() < 0.8:
                live = list(fleet.live)
                fleet.finish(live[int(rng.integers(len(live)))])

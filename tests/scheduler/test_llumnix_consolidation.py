"""Llumnix v1 on instances of 20 pages, with its own thresholds: 12, 17 and 19."""

from mell_jax.scheduler.placement.policy import PolicyConfig
from tests.scheduler.policy_harness import Fleet, moved


def filled(*sizes: int) -> Fleet:
    config = PolicyConfig(headroom=0.15)
    fleet = Fleet("llumnix_consolidation", capacity=20, config=config)
    for request, pages in enumerate(sizes):
        fleet.arrive(request, pages)
    return fleet


def test_dispatch_keeps_to_its_threshold() -> None:
    assert filled(10, 7, 1).sizes == {0: [10, 7], 1: [1]}


def test_consolidation_empties_the_emptiest_under_the_floor() -> None:
    fleet = filled(10, 6, 5)
    assert fleet.sizes == {0: [10, 6], 1: [5]}
    fleet.finish(1)
    assert moved(fleet.tick()) == [(2, 1, 0)]
    assert fleet.sizes == {0: [10, 5]}


def test_consolidation_leaves_what_is_above_the_floor() -> None:
    fleet = filled(14, 13)
    assert moved(fleet.tick()) == []


def test_mitigation_takes_the_shortest_from_what_is_above_the_ceiling() -> None:
    fleet = filled(10, 6, 5)
    fleet.grow(0, 14)
    assert moved(fleet.tick()) == [(1, 0, 1)]
    assert fleet.sizes == {0: [14], 1: [6, 5]}


def test_nothing_is_mitigated_below_the_ceiling() -> None:
    fleet = filled(10, 6, 12)
    fleet.grow(0, 13)
    assert moved(fleet.tick()) == []

"""Policies that move nothing, on instances of 20 pages."""

from mell_jax.scheduler.placement.policy import PolicyConfig
from tests.scheduler.policy_harness import Fleet, counts


def test_best_fit_packs_and_spread_uses_every_device_first() -> None:
    full, even = (
        Fleet(f"pinned_{name}", capacity=20, devices=3)
        for name in ("best_fit", "spread")
    )
    for fleet in (full, even):
        for request, pages in enumerate((9, 7, 4, 3, 2)):
            fleet.arrive(request, pages)
    assert full.sizes == {0: [9, 7, 4], 1: [3, 2]}
    assert even.sizes == {0: [9], 1: [7, 2], 2: [4, 3]}


def test_headroom_is_left_free() -> None:
    config = PolicyConfig(headroom=0.2)
    for name in ("best_fit", "spread"):
        fleet = Fleet(f"pinned_{name}", capacity=20, devices=2, config=config)
        for request in range(3):
            fleet.arrive(request, 10)
        assert sorted(map(len, fleet.sizes.values())) == [1, 2]  # no other is left


def test_what_overflows_is_preempted_where_best_fit_moves_it() -> None:
    fleets = {
        name: Fleet(name, capacity=20) for name in ("pinned_best_fit", "best_fit")
    }
    told = {}
    for name, fleet in fleets.items():
        fleet.arrive(0, 12)
        fleet.arrive(1, 8)
        told[name] = counts(fleet.grow(0, 13))
    moved = {"Wait": 1, "Activate": 1, "Move": 1, "Place": 1}
    assert told["best_fit"] == moved
    assert "Move" not in told["pinned_best_fit"]
    assert told["pinned_best_fit"]["Preempt"] == 1
    assert fleets["pinned_best_fit"].sizes == {0: [13], 1: [8]}


def test_epochs_and_departures_move_nothing_and_an_empty_instance_is_parked() -> None:
    fleet = Fleet("pinned_spread", capacity=20, devices=2)
    fleet.arrive(0, 15)
    fleet.arrive(1, 12)
    fleet.arrive(2, 4)
    assert counts(fleet.finish(0)) == {"Park": 1}
    assert fleet.tick() == []
    assert fleet.sizes == {1: [12, 4]}

"""Best fit and worst fit that move nothing, on instances of 20 pages."""

from tests.scheduler.policy_harness import Fleet, counts


def test_places_are_those_of_the_policy_inside() -> None:
    full, even = (
        Fleet(f"pinned_{name}", capacity=20) for name in ("best_fit", "worst_fit")
    )
    for fleet in (full, even):
        fleet.arrive(0, 15)
        fleet.arrive(1, 12)
        fleet.arrive(2, 4)
    assert full.sizes == {0: [15, 4], 1: [12]}
    assert even.sizes == {0: [15], 1: [12, 4]}


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
    fleet = Fleet("pinned_worst_fit", capacity=20)
    fleet.arrive(0, 15)
    fleet.arrive(1, 12)
    fleet.arrive(2, 4)
    assert counts(fleet.finish(0)) == {"Park": 1}
    assert fleet.tick() == []
    assert fleet.sizes == {1: [12, 4]}

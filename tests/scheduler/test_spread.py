"""Spreading over all devices, on instances of 20 pages."""

from mell_jax.scheduler.placement.policy import PolicyConfig
from tests.scheduler.policy_harness import Fleet, counts


def test_every_device_is_used_before_two_requests_share_one() -> None:
    fleet = Fleet("spread", capacity=20, devices=3)
    for request, pages in enumerate((9, 7, 4, 3, 2)):
        fleet.arrive(request, pages)
    assert fleet.sizes == {0: [9], 1: [7, 2], 2: [4, 3]}


def test_what_overflows_moves_to_the_emptiest_other_one() -> None:
    fleet = Fleet("spread", capacity=20, devices=2)
    for request, pages in enumerate((12, 5, 4, 8)):
        fleet.arrive(request, pages)
    assert fleet.sizes == {0: [12], 1: [8, 5, 4]}
    assert counts(fleet.grow(2, 8))["Move"] == 1
    assert fleet.sizes == {0: [12, 8], 1: [8, 5]}


def test_a_device_that_nobody_has_is_parked() -> None:
    fleet = Fleet("spread", capacity=20, devices=2)
    fleet.arrive(0, 5)
    fleet.arrive(1, 5)
    assert counts(fleet.finish(0)) == {"Park": 1}
    fleet.arrive(2, 5)
    assert sorted(fleet.sizes.values()) == [[5], [5]]


def test_headroom_is_left_free_where_there_is_another() -> None:
    fleet = Fleet("spread", capacity=20, devices=2, config=PolicyConfig(headroom=0.3))
    for request, pages in enumerate((15, 12, 4)):
        fleet.arrive(request, pages)
    assert fleet.sizes == {0: [15], 1: [12, 4]}

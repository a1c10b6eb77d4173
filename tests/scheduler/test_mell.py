"""The rules of MELL on instances of 24 pages: T is 4-6, S 7-8, M 9-12, L 13-24."""

import pytest

from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.mell import Mell
from tests.scheduler.policy_harness import Fleet, counts, moved


def filled(*sizes: int, config: PolicyConfig | None = None) -> Fleet:
    """A fleet that requests 0, 1, ... of these sizes have come to."""
    fleet = Fleet("mell", capacity=24, config=config)
    for request, pages in enumerate(sizes):
        fleet.arrive(request, pages)
    return fleet


def test_a_t_goes_beside_an_l() -> None:
    assert filled(14, 5).sizes == {0: [14, 5]}


def test_a_t_goes_to_the_latest_t_gpu_and_opens_one_where_that_is_full() -> None:
    assert filled(6, 6, 6, 6, 5).sizes == {0: [6, 6, 6, 6], 1: [5]}


def test_a_t_goes_onto_an_m_gpu() -> None:
    assert filled(10, 10, 4).sizes == {0: [10, 10, 4]}


def test_an_m_goes_beside_an_l() -> None:
    assert filled(14, 10).sizes == {0: [14, 10]}


def test_two_m_or_three_s_share_a_gpu() -> None:
    assert filled(10, 10, 9).sizes == {0: [10, 10], 1: [9]}
    assert filled(8, 8, 7, 7).sizes == {0: [8, 8, 7], 1: [7]}


def test_an_m_and_an_s_do_not_share_a_gpu() -> None:
    assert filled(9, 7).sizes == {0: [9], 1: [7]}


def test_an_m_gpu_that_becomes_an_l_gpu_pulls_no_second_partner() -> None:
    fleet = filled(10, 10, 9)
    fleet.grow(0, 13)
    assert moved(fleet.tick()) == []
    assert fleet.sizes == {0: [13, 10], 1: [9]}


def test_an_m_displaces_the_t_beside_an_l_at_the_epoch() -> None:
    fleet = filled(14, 6, 10)
    assert fleet.sizes == {0: [14, 6], 1: [10]}  # nobody waits for a move
    assert moved(fleet.tick()) == [(1, 0, 1), (2, 1, 0)]
    assert fleet.sizes == {0: [14, 10], 1: [6]}


def test_only_what_is_in_the_way_is_displaced() -> None:
    fleet = filled(13, 4, 4, 7)
    assert fleet.sizes == {0: [13, 4, 4], 1: [7]}
    fleet.tick()
    assert fleet.sizes == {0: [13, 7, 4], 2: [4]}  # no T-GPU was there


def test_an_l_pulls_an_m_from_the_latest_m_gpu() -> None:
    fleet = filled(10, 10, 9, 15)
    assert fleet.sizes == {0: [10, 10], 1: [9], 2: [15]}
    assert moved(fleet.tick()) == [(2, 1, 2)]
    assert fleet.sizes == {0: [10, 10], 2: [15, 9]}


def test_an_m_that_leaves_is_replaced_from_the_latest_m_gpu() -> None:
    fleet = filled(10, 10, 9)
    fleet.finish(0)
    assert moved(fleet.tick()) == [(2, 1, 0)]
    assert fleet.sizes == {0: [10, 9]}


def test_an_s_that_leaves_is_replaced_from_the_latest_s_gpu() -> None:
    fleet = filled(8, 8, 7, 7)
    fleet.finish(0)
    assert moved(fleet.tick()) == [(3, 1, 0)]
    assert fleet.sizes == {0: [8, 7, 7]}


def test_a_t_that_leaves_is_replaced_from_the_latest_t_gpu() -> None:
    fleet = filled(6, 6, 6, 6, 5)
    fleet.finish(0)
    assert moved(fleet.tick()) == [(4, 1, 0)]
    assert fleet.sizes == {0: [6, 6, 6, 5]}


def test_nothing_is_pulled_onto_the_latest_gpu_itself() -> None:
    fleet = filled(6, 6, 6, 6, 5, 5)
    fleet.finish(5)
    assert moved(fleet.tick()) == []


def test_what_was_beside_an_l_that_leaves_is_allocated_anew() -> None:
    fleet = filled(14, 10, 12)
    assert fleet.sizes == {0: [14, 10], 1: [12]}
    fleet.finish(0)
    assert moved(fleet.tick()) == [(1, 0, 1)]
    assert fleet.sizes == {1: [12, 10]}


def test_a_partner_that_leaves_an_l_is_replaced_and_its_gpu_refilled() -> None:
    fleet = filled(13, 11, 8, 8, 8, 8)
    assert fleet.sizes == {0: [13, 11], 1: [8, 8, 8], 2: [8]}
    fleet.finish(1)
    assert moved(fleet.tick()) == [(5, 2, 0)]
    assert fleet.sizes == {0: [13, 8], 1: [8, 8, 8]}


def test_a_t_that_becomes_an_s_departs() -> None:
    fleet = filled(6, 6)
    fleet.grow(0, 7)
    assert moved(fleet.tick()) == [(0, 0, 1)]
    assert fleet.sizes == {0: [6], 1: [7]}


def test_a_t_that_becomes_an_s_goes_beside_an_l() -> None:
    fleet = filled(14, 6, 6)
    assert fleet.sizes == {0: [14, 6], 1: [6]}
    fleet.grow(2, 7)
    fleet.tick()
    assert fleet.sizes == {0: [14, 7], 2: [6]}


def test_a_t_that_becomes_an_s_beside_an_l_stays() -> None:
    fleet = filled(14, 6)
    fleet.grow(1, 7)
    assert moved(fleet.tick()) == []


def test_overflow_beside_an_l_sheds_the_smallest_class_first() -> None:
    fleet = filled(14, 5, 3)
    fleet.grow(0, 16)
    assert moved(fleet.grow(0, 17)) == [(2, 0, 1)]
    assert fleet.sizes == {0: [17, 5], 1: [3]}


def test_a_partner_that_an_overflow_sheds_is_replaced_by_one_that_fits() -> None:
    fleet = filled(13, 10, 9)
    assert fleet.sizes == {0: [13, 10], 1: [9]}
    assert moved(fleet.tick()) == []
    fleet.grow(0, 14)
    assert moved(fleet.grow(0, 15)) == [(1, 0, 1)]
    assert moved(fleet.tick()) == [(2, 1, 0)]
    assert fleet.sizes == {0: [15, 9], 1: [10]}


def test_overflow_without_an_l_sheds_the_smallest_that_is_enough() -> None:
    fleet = filled(6, 6, 5, 6)
    fleet.grow(0, 7)
    assert moved(fleet.grow(1, 8)) == [(2, 0, 1)]
    assert fleet.sizes == {0: [8, 7, 6], 1: [5]}


def test_a_bundle_moves_as_one() -> None:
    fleet = filled(6, 6, 6, 6, 3, 3)
    assert fleet.sizes == {0: [6, 6, 6, 6], 1: [3, 3]}
    fleet.finish(0)
    assert moved(fleet.tick()) == [(4, 1, 0), (5, 1, 0)]
    assert isinstance(fleet.policy, Mell)
    assert (fleet.policy.tally.moves, fleet.policy.tally.request_moves) == (1, 2)


def test_a_small_request_joins_an_open_bundle_best_fit() -> None:
    fleet = filled(20, 2, 6, 6, 6, 2)
    assert fleet.sizes == {0: [20, 2, 2], 1: [6, 6, 6]}


@pytest.mark.parametrize(("near_weight", "target"), [(0.1, 1), (0.0, 2)])
def test_a_request_prefers_the_same_host(near_weight: float, target: int) -> None:
    config = PolicyConfig(devices_per_host=2, near_weight=near_weight)
    fleet = filled(20, 4, 16, 14, config=config)
    assert fleet.sizes == {0: [20, 4], 1: [16], 2: [14]}
    assert moved(fleet.grow(0, 21)) == [(1, 0, target)]


def test_the_cap_stops_an_operation_before_it_is_exceeded() -> None:
    fleet = filled(14, 6, 10, config=PolicyConfig(move_cap=1))
    assert moved(fleet.tick()) == []  # two moves would be needed
    assert fleet.sizes == {0: [14, 6], 1: [10]}
    assert isinstance(fleet.policy, Mell)
    assert fleet.policy.tally.cut_short >= 1


def test_there_and_back_in_one_epoch_is_not_carried_out() -> None:
    fleet = filled(6, 6, 6, 6, 5)
    fleet.finish(0)  # pulls request 4 ...
    fleet.finish(1)  # ... and would pull another
    fleet.finish(4)
    assert moved(fleet.tick()) == []
    assert counts(fleet.tick()) == {}


def test_a_t_keeps_room_for_growth_free() -> None:
    config = PolicyConfig(look_s=1.0)
    fleet = Fleet("mell", capacity=24, config=config, growth_pages_per_s=1.0)
    for request, pages in enumerate([6, 6, 6, 6]):
        fleet.arrive(request, pages)
    assert fleet.sizes == {0: [6, 6, 6], 1: [6]}  # four rows would grow by four pages


def test_a_gpu_that_was_dear_to_load_waits_empty_and_is_used_again() -> None:
    spec = ModelSpec(capacity_pages=24, load_s=2.0)
    fleet = Fleet("mell", capacity=24, spec=spec)
    fleet.arrive(0, 20)
    fleet.finish(0)
    assert fleet.sizes == {0: []}
    assert counts(fleet.arrive(1, 20)) == {"Place": 1}  # no second load
    fleet.finish(1)
    assert [counts(fleet.tick())["Park"] for _ in range(3)] == [0, 0, 0]  # the last
    fleet.arrive(2, 20)
    fleet.arrive(3, 20)
    fleet.tick()
    assert fleet.sizes == {0: [20], 1: [20]}
    fleet.finish(2)
    assert [counts(fleet.tick())["Park"] for _ in range(3)] == [0, 1, 0]

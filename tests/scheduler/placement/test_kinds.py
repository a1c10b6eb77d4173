"""Devices of several kinds: who goes where, by size and by price."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.ids import DeviceGroupId, KindId, ModelId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.kind import ONLY_KIND, DeviceKind
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.model import ModelSpec, StepTime
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.price_bound import Offer, price_bound
from tests.scheduler.kinds_fleet import BIG, CHEAP_BIG, CHEAP_SMALL, SMALL, KindsFleet
from tests.scheduler.optimum import cheapest

SEVERAL = sorted(set(POLICIES) - {"mell"})  # whose classes are shares of one capacity


@pytest.mark.parametrize("policy", SEVERAL)
def test_the_cheapest_kind_that_holds_a_request_is_opened(policy: str) -> None:
    fleet = KindsFleet(policy)
    assert fleet.arrive(0, 10) == ["open 100 small", "place 0 on 100"]
    assert fleet.arrive(1, 11) == ["open 0 big", "place 1 on 0"]


@pytest.mark.parametrize("policy", SEVERAL)
def test_a_request_whose_peak_fits_only_a_large_kind_is_placed_there(
    policy: str,
) -> None:
    fleet = KindsFleet(policy)
    fleet.arrive(0, 1)
    assert fleet.arrive(1, 1, peak=11) == ["open 0 big", "place 1 on 0"]


@pytest.mark.parametrize("policy", SEVERAL)
def test_a_request_that_fits_no_kind_is_rejected(policy: str) -> None:
    fleet = KindsFleet(policy)
    assert fleet.arrive(0, 21) == ["reject 0"]
    assert fleet.arrive(1, 1, peak=21) == ["reject 1"]
    assert fleet.sizes == {}


@pytest.mark.parametrize("policy", SEVERAL)
def test_the_other_kind_is_opened_where_the_cheapest_has_run_out(policy: str) -> None:
    fleet = KindsFleet(policy, big=1, small=1)
    fleet.arrive(0, 10)
    assert fleet.arrive(1, 10) == ["open 0 big", "place 1 on 0"]
    fleet = KindsFleet(policy, big=0, small=1)
    assert fleet.arrive(0, 1, peak=11) == ["wait 0"]  # a large one may be added yet
    assert fleet.add(7, BIG) == ["open 7 big", "place 0 on 7"]


PACKING = sorted(set(SEVERAL) - {"spread", "pinned_spread"})  # these open both


@pytest.mark.parametrize("policy", PACKING)
def test_a_request_that_outgrows_its_kind_goes_to_a_larger_one(policy: str) -> None:
    fleet = KindsFleet(policy, big=1, small=1)
    fleet.arrive(0, 6)
    fleet.arrive(1, 4)
    said = fleet.grow(0, 11)  # more than a small device has, whoever else leaves
    assert said[:3] == ["wait 0", "open 0 big", "move 0 to 0"]
    assert fleet.sizes == {0: [11], 100: [4]}


def test_one_that_outgrows_its_kind_starts_again_where_no_move_is_possible() -> None:
    fleet = KindsFleet(big=1, small=1)
    fleet.arrive(0, 15)
    fleet.arrive(1, 10)
    assert fleet.grow(1, 11)[:2] == ["wait 1", "preempt 1"]
    assert fleet.finish(0)[-1] == "place 1 on 0"
    assert fleet.sizes == {0: [11]}


def test_one_that_outgrows_all_kinds_is_rejected() -> None:
    fleet = KindsFleet()
    fleet.arrive(0, 20)
    assert "reject 0" in fleet.grow(0, 21)


def test_best_fit_is_by_free_pages_across_kinds() -> None:
    fleet = KindsFleet()
    fleet.arrive(0, 16)  # 4 free on a big device
    fleet.arrive(1, 7)  # 3 free on a small one
    assert fleet.arrive(2, 4) == ["place 2 on 0"]
    assert fleet.arrive(3, 3) == ["place 3 on 100"]
    ledger = fleet.machine.ledger
    assert ledger.best_fit(ONLY_MODEL, 1) is None
    fleet.finish(0)
    fleet.finish(3)
    assert list(ledger.fullest_first(ONLY_MODEL, 1)) == [100, 0]
    assert list(ledger.emptiest_first(ONLY_MODEL)) == [0, 100]
    assert ledger.best_fit(ONLY_MODEL, 1, peak=11) == 0
    assert ledger.worst_fit(ONLY_MODEL, skip=DeviceGroupId(0)) == 100
    assert ledger.worst_fit(ONLY_MODEL, skip=DeviceGroupId(0), peak=11) is None


def test_an_operator_cannot_move_a_request_to_a_kind_that_cannot_hold_its_peak() -> (
    None
):
    fleet = KindsFleet()
    fleet.arrive(0, 1)
    fleet.arrive(1, 1, peak=15)
    to_small = events.Relocate(request=RequestId(1), device=DeviceGroupId(100))
    assert fleet.tell(to_small) == []
    to_big = events.Relocate(request=RequestId(0), device=DeviceGroupId(0))
    assert fleet.tell(to_big)[0] == "move 0 to 0"


def test_a_device_that_is_given_back_empties_into_kinds_that_hold_its_requests() -> (
    None
):
    fleet = KindsFleet(big=2, small=2)
    fleet.arrive(0, 5, peak=15)
    said = fleet.tell(events.DeviceRemoved(device=DeviceGroupId(0)))
    assert said == ["open 1 big", "move 0 to 1", "park 0"]


CHAT, CODE = ModelId("chat"), ModelId("code")
TWO_MODELS = {
    BIG: DeviceKind(
        models={CHAT: ModelSpec(capacity_pages=20), CODE: ModelSpec(capacity_pages=20)},
        price_per_hour=3.0,
    ),
    SMALL: DeviceKind(models={CHAT: ModelSpec(capacity_pages=10)}),
}


def test_a_model_runs_on_the_kinds_that_name_it_alone() -> None:
    fleet = KindsFleet(kinds=TWO_MODELS, big=1, small=2)
    assert fleet.arrive(0, 1, model=CODE) == ["open 0 big", "place 0 on 0"]
    assert fleet.arrive(1, 1, model=CHAT) == ["open 100 small", "place 1 on 100"]
    assert fleet.machine.ledger.on_kind(CODE, SMALL) is None


def test_a_model_claims_a_device_that_can_hold_its_request() -> None:
    """Both have their turns behind them; the small one would be no use."""
    fleet = KindsFleet(kinds=TWO_MODELS, big=1, small=1)
    fleet.arrive(0, 10, model=CHAT)
    fleet.arrive(1, 15, model=CHAT)
    assert sorted(fleet.sizes) == [0, 100]
    fleet.tick(20.0)
    said = fleet.arrive(2, 1, model=CODE)
    assert said[0] == "wait 2" and "preempt 1" in said
    assert said[-2:] == ["open 0 big", "place 2 on 0"]


def test_an_empty_instance_gives_up_a_device_that_is_large_enough() -> None:
    kept = ModelSpec(capacity_pages=20)
    kinds = {
        BIG: DeviceKind(models={CHAT: kept, CODE: kept}, price_per_hour=3.0),
        SMALL: DeviceKind(
            models={
                CHAT: ModelSpec(capacity_pages=10),
                CODE: ModelSpec(capacity_pages=10),
            }
        ),
    }
    fleet = KindsFleet(kinds=kinds, big=1, small=1)
    fleet.arrive(0, 15, model=CHAT)
    fleet.arrive(1, 10, model=CHAT)
    fleet.finish(0)
    fleet.finish(1)  # its last instance stays
    assert sorted(fleet.sizes) == [100]
    fleet.arrive(2, 15, model=CHAT)
    fleet.finish(2)
    assert fleet.arrive(3, 15, model=CODE)[-1] == "place 3 on 0"


def test_what_an_activation_took_is_learned_of_its_kind() -> None:
    fleet = KindsFleet()
    fleet.tell(events.Activated(model=ONLY_MODEL, took_s=7.0, kind=BIG))
    loads = {
        own.kind: own.spec.load_s for own in fleet.machine.ledger.kinds(ONLY_MODEL)
    }
    assert loads == {BIG: 7.0, SMALL: 0.0}
    with pytest.raises(ValueError, match=r"'default' does not run on .* kind 'huge'"):
        fleet.tell(events.Activated(model=ONLY_MODEL, took_s=1.0, kind=KindId("huge")))


def test_a_device_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"device 9 is of the unknown kind 'huge'"):
        KindsFleet().add(9, KindId("huge"))


def test_a_device_may_come_back_as_another_kind() -> None:
    fleet = KindsFleet(big=0, small=1)
    fleet.lose(100)
    fleet.add(100, BIG)
    assert fleet.arrive(0, 15) == ["open 100 big", "place 0 on 100"]
    assert fleet.machine.ledger.next_idle(SMALL) is None


def test_kinds_say_their_price_and_speed_as_positive_numbers() -> None:
    models = {ONLY_MODEL: ModelSpec(capacity_pages=1)}
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="price_per_hour must be > 0"):
            DeviceKind(models=models, price_per_hour=wrong)
        with pytest.raises(ValueError, match="speed must be > 0"):
            DeviceKind(models=models, speed=wrong)


def test_a_model_that_runs_nowhere_is_refused() -> None:
    models = {ONLY_MODEL: ModelSpec(capacity_pages=1)}
    with pytest.raises(ValueError, match=r"'default' runs on none of .*\['big'\]"):
        Ledger(models, look_s=0.0, kinds={BIG: DeviceKind(models={})})


def test_room_is_cheapest_where_the_same_work_costs_least_for_a_page() -> None:
    ledger = KindsFleet(kinds=CHEAP_BIG).machine.ledger
    assert [own.kind for own in ledger.kinds(ONLY_MODEL)] == [BIG, SMALL]
    # 1.5 for 20 pages, so that the price of a small one buys 13.3 of them
    assert [own.worth_pages for own in ledger.kinds(ONLY_MODEL)] == pytest.approx(
        [20.0, 40 / 3]
    )
    slow = CHEAP_BIG | {
        BIG: DeviceKind(models=CHEAP_BIG[BIG].models, price_per_hour=1.5, speed=0.5)
    }
    kinds = KindsFleet(kinds=slow).machine.ledger.kinds(ONLY_MODEL)
    assert [own.kind for own in kinds] == [SMALL, BIG]


def test_a_fleet_without_kinds_has_one() -> None:
    ledger = Ledger({ONLY_MODEL: ModelSpec(capacity_pages=9)}, look_s=0.0)
    (own,) = ledger.kinds(ONLY_MODEL)
    assert (own.kind, own.limit, own.worth_pages) == (ONLY_KIND, 9, 9.0)
    assert plan.Activate(
        device=DeviceGroupId(0), model=ONLY_MODEL, load_s=0.0, weights_bytes=0
    ).kind == (ONLY_KIND)


def test_a_step_on_a_faster_device_takes_less_time() -> None:
    step = StepTime(fixed_s=1.0, row_s=0.5, page_s=0.25)
    assert step.faster(2.0) == StepTime(fixed_s=0.5, row_s=0.25, page_s=0.125)


@given(
    st.lists(st.integers(1, 20), max_size=6),
    st.sampled_from([CHEAP_SMALL, CHEAP_BIG]),
    st.sampled_from(SEVERAL),
)
def test_no_policy_pays_less_than_the_optimum_nor_that_less_than_the_bound(
    sizes: list[int], kinds: dict[KindId, DeviceKind], policy: str
) -> None:
    fleet = KindsFleet(policy, kinds=kinds, big=6, small=6)
    for request, pages in enumerate(sizes):
        fleet.arrive(request, pages)
    offers = [
        Offer(spec=kind.models[ONLY_MODEL], price_per_hour=kind.price_per_hour, count=6)
        for kind in kinds.values()
    ]
    best = cheapest(sizes, offers)
    requests = fleet.machine.ledger.requests.values()
    pages = [request.pages for request in requests]
    assert sorted(pages) == sorted(sizes)
    assert price_bound(np.array(sizes, np.int64), offers=offers) <= best + 1e-9
    assert best <= fleet.price + 1e-9

"""Books that begin with what runs already, and requests that lost their place."""

import pytest

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement.events import (
    ONLY_MODEL,
    Adopt,
    Arrive,
    DeviceAdded,
    Displace,
    Event,
    Finish,
    Grow,
    Serving,
)
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.plan import (
    Activate,
    Decision,
    Move,
    Park,
    Place,
    Preempt,
    Reject,
)
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES

LEFT, RIGHT = DeviceGroupId(0), DeviceGroupId(1)
OTHER = ModelId("other")


class Fleet:
    """Best fit; instances of two models with ten pages each."""

    def __init__(self) -> None:
        spec = ModelSpec(capacity_pages=10)
        self.machine = Machine(
            models={ONLY_MODEL: spec, OTHER: spec},
            policy=POLICIES["best_fit"](PolicyConfig()),
        )
        self.ledger = self.machine.ledger

    def step(self, event: Event) -> list[Decision]:
        decisions = self.machine.step(event).decisions
        self.ledger.check()
        return list(decisions)

    def adopt(
        self, request: int, pages: int, *, model: ModelId = ONLY_MODEL
    ) -> list[Decision]:
        arrival = Arrive(request=RequestId(request), pages=pages, model=model)
        return self.step(Adopt(arrival=arrival, device=LEFT))


def serving() -> Fleet:
    fleet = Fleet()
    assert fleet.step(Serving(device=LEFT, model=ONLY_MODEL)) == []
    return fleet


def test_a_group_that_serves_already_is_not_opened_again() -> None:
    fleet = serving()
    assert not fleet.ledger.is_idle(LEFT)
    arrived = fleet.step(Arrive(request=RequestId(1), pages=4))
    assert arrived == [Place(request=RequestId(1), device=LEFT, pages=4)]


def test_a_group_cannot_join_twice() -> None:
    with pytest.raises(ValueError, match="in the fleet already"):
        serving().step(Serving(device=LEFT, model=ONLY_MODEL))


def test_a_request_that_runs_keeps_its_place_without_a_decision() -> None:
    fleet = serving()
    assert fleet.adopt(1, 4) == []
    assert fleet.ledger.requests[RequestId(1)].device == LEFT
    assert fleet.step(Grow(request=RequestId(1), pages=5)) == []
    fleet.step(Finish(request=RequestId(1)))
    assert fleet.ledger.requests == {}


def test_a_request_that_does_not_fit_loses_its_pages_and_queues() -> None:
    fleet = serving()
    fleet.adopt(1, 6)
    assert fleet.adopt(2, 5) == [Preempt(request=RequestId(2), device=LEFT)]
    assert fleet.machine.waiting == 1
    assert fleet.step(Finish(request=RequestId(1))) == [
        Place(request=RequestId(2), device=LEFT, pages=5)
    ]


def test_a_request_that_does_not_fit_is_placed_elsewhere_after_it_lost_its_pages() -> (
    None
):
    fleet = serving()
    fleet.step(DeviceAdded(device=RIGHT))
    fleet.adopt(1, 6)
    preempted, activated, placed = fleet.adopt(2, 5)
    assert preempted == Preempt(request=RequestId(2), device=LEFT)
    assert isinstance(activated, Activate)
    assert placed == Place(request=RequestId(2), device=RIGHT, pages=5)


def test_a_request_at_an_instance_of_another_model_starts_again() -> None:
    fleet = serving()
    adopted = fleet.adopt(1, 4, model=OTHER)
    assert adopted[0] == Preempt(request=RequestId(1), device=LEFT)
    assert adopted[-1] == Place(request=RequestId(1), device=LEFT, pages=4)
    assert fleet.ledger.instances[LEFT].model == OTHER


def test_a_request_that_no_instance_can_hold_is_rejected_as_ever() -> None:
    (rejected,) = serving().adopt(1, 11)
    assert isinstance(rejected, Reject)


def test_a_request_is_adopted_where_something_serves() -> None:
    with pytest.raises(ValueError, match="unknown device 0"):
        Fleet().adopt(1, 4)


def test_a_request_is_adopted_once() -> None:
    fleet = serving()
    fleet.adopt(1, 4)
    with pytest.raises(ValueError, match="has arrived before"):
        fleet.adopt(1, 4)


def test_a_displaced_request_is_preempted_and_placed_anew() -> None:
    fleet = serving()
    fleet.adopt(1, 4)
    assert fleet.step(Displace(request=RequestId(1))) == [
        Preempt(request=RequestId(1), device=LEFT),
        Place(request=RequestId(1), device=LEFT, pages=4),
    ]


def test_a_displaced_request_takes_its_move_with_it() -> None:
    fleet = serving()
    fleet.step(DeviceAdded(device=RIGHT))
    fleet.adopt(1, 5)
    fleet.adopt(2, 5)
    decisions = fleet.step(Grow(request=RequestId(1), pages=6))
    (move,) = [each for each in decisions if isinstance(each, Move)]
    decisions = fleet.step(Displace(request=move.request))
    assert Preempt(request=move.request, device=LEFT) in decisions
    assert fleet.ledger.moves == {}


def test_a_request_that_waits_is_displaced_from_nowhere() -> None:
    fleet = serving()
    fleet.adopt(1, 6)
    fleet.adopt(2, 5)
    assert fleet.step(Displace(request=RequestId(2))) == []
    with pytest.raises(ValueError, match="request 9"):
        fleet.step(Displace(request=RequestId(9)))


def test_an_instance_that_is_adopted_is_parked_when_it_is_empty() -> None:
    fleet = serving()
    fleet.step(Serving(device=RIGHT, model=ONLY_MODEL))
    fleet.adopt(1, 4)
    decisions = fleet.step(Finish(request=RequestId(1)))
    assert [each for each in decisions if isinstance(each, Park)] != []

from collections import deque

import pytest

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.fairness import TURN_S
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES

A, B, C = ModelId("a"), ModelId("b"), ModelId("c")


class Shared:
    """Devices of ten pages under several models; moves take no time."""

    def __init__(self, policy: str, *, devices: int, models: list[ModelId]) -> None:
        self.machine = Machine(
            models={model: ModelSpec(capacity_pages=10) for model in models},
            policy=POLICIES[policy](PolicyConfig()),
        )
        self.at: dict[RequestId, DeviceGroupId] = {}
        self.preempted: list[RequestId] = []
        self._next = 0
        for device in range(devices):
            self.tell(events.DeviceAdded(device=DeviceGroupId(device)))

    def tell(self, event: events.Event) -> None:
        todo: deque[events.Event] = deque([event])
        while todo:
            for decision in self.machine.step(todo.popleft()).decisions:
                match decision:
                    case plan.Place():
                        self.at[decision.request] = decision.device
                    case plan.Move():
                        self.at[decision.request] = decision.target
                        todo.append(events.MoveCommitted(move=decision.move))
                    case plan.Preempt():
                        del self.at[decision.request]
                        self.preempted.append(decision.request)
            self.machine.ledger.check()

    def arrive(self, model: ModelId, *, pages: int = 5) -> RequestId:
        request, self._next = RequestId(self._next), self._next + 1
        self.tell(events.Arrive(request=request, pages=pages, model=model))
        return request

    def instances(self) -> dict[ModelId, int]:
        ledger = self.machine.ledger
        return {m: len(ledger.of_model(m)) for m in ledger.models}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_model_without_an_instance_gets_one_at_once(policy: str) -> None:
    fleet = Shared(policy, devices=4, models=[A, B])
    for _ in range(20):
        fleet.arrive(A)
    assert fleet.instances() == {A: 4, B: 0}
    request = fleet.arrive(B)
    assert request in fleet.at
    assert fleet.instances() == {A: 3, B: 1}
    assert len(fleet.preempted) == 2  # of the instance that B has now; they wait


def test_requests_that_fit_elsewhere_are_moved_and_not_computed_again() -> None:
    fleet = Shared("best_fit", devices=2, models=[A, B])
    large, other = fleet.arrive(A, pages=6), fleet.arrive(A, pages=5)
    small = fleet.arrive(A, pages=4)
    fleet.tell(events.Finish(request=large))
    assert fleet.at == {large: 0, other: 1, small: 0}
    assert fleet.arrive(B) in fleet.at
    assert fleet.at[small] == fleet.at[other]
    assert fleet.preempted == []


def test_what_was_preempted_comes_back_in_order_before_later_requests() -> None:
    fleet = Shared("best_fit", devices=2, models=[A, B])
    early = [fleet.arrive(A) for _ in range(4)]
    late = fleet.arrive(A)
    assert late not in fleet.at
    fleet.arrive(B)
    waiting = [request for request in early if request not in fleet.at]
    assert len(waiting) == 2
    done = next(request for request in early if request in fleet.at)
    fleet.tell(events.Finish(request=done))
    assert waiting[0] in fleet.at
    assert waiting[1] not in fleet.at
    assert late not in fleet.at


def test_a_model_below_its_share_waits_for_an_instance_to_have_its_turn() -> None:
    fleet = Shared("best_fit", devices=4, models=[A, B])
    for _ in range(8):
        fleet.arrive(A)
    for _ in range(4):
        fleet.arrive(B)
    assert fleet.instances() == {A: 3, B: 1}
    fleet.tell(events.Tick(now_s=TURN_S - 1))
    assert fleet.instances() == {A: 3, B: 1}
    fleet.tell(events.Tick(now_s=TURN_S))
    assert fleet.instances() == {A: 2, B: 2}
    fleet.tell(events.Tick(now_s=3 * TURN_S))
    assert fleet.instances() == {A: 2, B: 2}  # its share


def test_more_models_than_devices_take_turns() -> None:
    fleet = Shared("consolidate", devices=2, models=[A, B, C])
    for model in (A, B, C):
        for _ in range(3):
            fleet.arrive(model)
    assert fleet.instances() == {A: 1, B: 1, C: 0}
    served: set[ModelId] = set()
    for tick in range(1, 8):
        fleet.tell(events.Tick(now_s=tick * TURN_S))
        served |= {model for model, count in fleet.instances().items() if count}
    assert served == {A, B, C}


def test_one_model_alone_is_never_robbed() -> None:
    fleet = Shared("consolidate", devices=2, models=[A, B])
    for _ in range(6):
        fleet.arrive(A)
    fleet.tell(events.Tick(now_s=5 * TURN_S))
    assert fleet.instances() == {A: 2, B: 0}
    assert fleet.preempted == []


def test_the_latest_activation_time_is_taken_note_of() -> None:
    fleet = Shared("consolidate", devices=1, models=[A, B])
    fleet.tell(events.Activated(model=A, took_s=2.5))
    assert fleet.machine.ledger.spec(A).load_s == 2.5
    assert fleet.machine.ledger.spec(B).load_s == 0.0
    with pytest.raises(ValueError, match="took_s must be finite and >= 0, got nan"):
        events.Activated(model=A, took_s=float("nan"))


def test_a_device_that_is_given_back_is_not_claimed() -> None:
    fleet = Shared("best_fit", devices=3, models=[A, B])
    for _ in range(6):
        fleet.arrive(A)
    fleet.machine.step(events.DeviceRemoved(device=DeviceGroupId(0)))
    assert fleet.machine.is_draining(DeviceGroupId(0))
    assert fleet.arrive(B) in fleet.at
    assert fleet.machine.is_draining(DeviceGroupId(0))
    assert fleet.instances() == {A: 2, B: 1}

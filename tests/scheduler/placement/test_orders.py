"""Orders of an operator, and growth that no device can hold."""

import pytest

from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.placement.events import (
    ONLY_MODEL,
    Arrive,
    Cached,
    DeviceAdded,
    DeviceRemoved,
    Event,
    Finish,
    Grow,
    MoveCommitted,
    Relocate,
    Tick,
)
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec, StepTime
from mell_jax.scheduler.placement.plan import (
    Activate,
    Decision,
    Move,
    Park,
    Place,
    Reject,
    RejectReason,
    Wait,
)
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES

LEFT, RIGHT = DeviceGroupId(0), DeviceGroupId(1)


class Fleet:
    """Best fit over two open devices of ten pages: request 1 left, 2 right."""

    def __init__(self) -> None:
        self.machine = Machine(
            models={ONLY_MODEL: ModelSpec(capacity_pages=10)},
            policy=POLICIES["best_fit"](PolicyConfig()),
        )
        self.step(DeviceAdded(device=LEFT))
        self.step(DeviceAdded(device=RIGHT))
        self.arrive(1, 6)
        self.arrive(2, 5)

    def step(self, event: Event) -> list[Decision]:
        decisions = list(self.machine.step(event).decisions)
        self.machine.ledger.check()
        return decisions

    def arrive(self, request: int, pages: int) -> list[Decision]:
        return self.step(Arrive(request=RequestId(request), pages=pages))

    def relocate(self, request: int, to: DeviceGroupId) -> list[Decision]:
        return self.step(Relocate(request=RequestId(request), device=to))


def test_a_request_goes_where_an_operator_wants_it_if_there_is_room() -> None:
    fleet = Fleet()
    fleet.arrive(3, 3)  # left, where it fits best: 9 of 10 pages
    assert fleet.relocate(1, RIGHT) == []  # 6 pages do not fit beside 5
    (moved,) = fleet.relocate(3, RIGHT)
    assert isinstance(moved, Move)
    assert (moved.request, moved.source, moved.target) == (3, LEFT, RIGHT)
    assert (moved.pages, moved.is_urgent) == (3, False)
    assert fleet.relocate(3, LEFT) == []  # it is on its way
    assert fleet.step(MoveCommitted(move=MoveId(0))) == []
    assert fleet.relocate(3, RIGHT) == []  # it is there


def test_a_request_that_outgrows_every_device_is_rejected_and_frees_its_pages() -> None:
    fleet = Fleet()
    rejected = fleet.step(Grow(request=RequestId(1), pages=11))
    too_large = Reject(request=RequestId(1), reason=RejectReason.TOO_LARGE)
    assert rejected == [too_large, Park(device=LEFT)]
    assert RequestId(1) not in fleet.machine.ledger.requests


def test_a_device_that_is_given_back_and_wanted_again_stays() -> None:
    fleet = Fleet()
    fleet.step(DeviceRemoved(device=LEFT))  # request 1 has nowhere to go
    assert fleet.machine.is_draining(LEFT) and not fleet.machine.is_draining(RIGHT)
    fleet.step(DeviceAdded(device=LEFT))
    assert not fleet.machine.is_draining(LEFT)
    fleet.arrive(3, 4)
    assert fleet.machine.ledger.requests[RequestId(3)].device == LEFT


def test_a_device_that_is_given_back_is_emptied_once_there_is_room() -> None:
    fleet = Fleet()
    assert fleet.step(DeviceRemoved(device=LEFT)) == []  # 6 do not fit beside 5
    assert fleet.step(Tick(now_s=1.0)) == []
    fleet.arrive(3, 1)
    fleet.step(Finish(request=RequestId(2)))
    (moved,) = fleet.step(Tick(now_s=2.0))
    assert isinstance(moved, Move) and moved.target == RIGHT
    assert fleet.step(MoveCommitted(move=MoveId(0))) == [Park(device=LEFT)]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Arrive(request=RequestId(1), pages=1), "arrived before"),
        (Arrive(request=RequestId(9), pages=0), "at least 1 page, got 0"),
        (Grow(request=RequestId(1), pages=6), "cannot grow to 6"),
        (Finish(request=RequestId(9)), "unknown request 9"),
        (DeviceAdded(device=LEFT), "in the fleet already"),
        (DeviceRemoved(device=DeviceGroupId(7)), "unknown device 7"),
    ],
)
def test_what_cannot_be_is_refused(event: Event, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fleet().step(event)


def test_time_may_stand_still_and_not_go_back() -> None:
    fleet = Fleet()
    fleet.step(Tick(now_s=2.0))
    fleet.step(Tick(now_s=2.0))
    with pytest.raises(ValueError, match="time goes back"):
        fleet.step(Tick(now_s=1.0))


def test_a_request_that_alone_takes_too_long_a_step_is_rejected() -> None:
    spec = ModelSpec(
        capacity_pages=10, step_time=StepTime(row_s=1.0, page_s=1.0), step_budget_s=5.0
    )
    machine = Machine(
        models={ONLY_MODEL: spec}, policy=POLICIES["best_fit"](PolicyConfig())
    )
    machine.step(DeviceAdded(device=LEFT))
    machine.step(Arrive(request=RequestId(1), pages=4))  # a row and four pages: 5 s
    assert machine.ledger.requests[RequestId(1)].device == LEFT
    answer = machine.step(Arrive(request=RequestId(2), pages=5))
    too_large = Reject(request=RequestId(2), reason=RejectReason.TOO_LARGE)
    assert answer.decisions == (too_large,)


def test_what_is_known_of_a_prefix_ends_with_its_request() -> None:
    fleet = Fleet()
    held = Cached(device=RIGHT, pages=2)
    fleet.step(Arrive(request=RequestId(3), pages=3, prefix=(held,)))
    ledger = fleet.machine.ledger
    assert ledger.cached_pages(RequestId(3), RIGHT) == 2
    assert ledger.cached_pages(RequestId(3), LEFT) == 0
    fleet.step(Finish(request=RequestId(3)))
    assert ledger.cached_pages(RequestId(3), RIGHT) == 0 and not ledger.prefix


def test_an_empty_device_that_is_given_back_is_parked_at_once() -> None:
    fleet = Fleet()
    assert fleet.step(Finish(request=RequestId(1))) == [Park(device=LEFT)]
    assert fleet.step(Finish(request=RequestId(2))) == []  # the last one stays open
    assert fleet.step(DeviceRemoved(device=RIGHT)) == [Park(device=RIGHT)]
    assert not fleet.machine.ledger.instances


def test_a_request_that_waits_is_placed_as_soon_as_a_device_is_added() -> None:
    fleet = Fleet()
    assert fleet.arrive(3, 9) == [Wait(request=RequestId(3))]
    assert fleet.machine.waiting == 1
    third = DeviceGroupId(2)
    (opened, placed) = fleet.step(DeviceAdded(device=third))
    assert isinstance(opened, Activate) and opened.device == third
    assert placed == Place(request=RequestId(3), device=third, pages=9)
    assert fleet.machine.waiting == 0


def test_a_request_that_waits_is_placed_when_a_device_is_wanted_again() -> None:
    fleet = Fleet()
    fleet.step(DeviceRemoved(device=LEFT))
    assert fleet.arrive(3, 4) == [Place(request=RequestId(3), device=RIGHT, pages=4)]
    assert fleet.arrive(4, 3) == [Wait(request=RequestId(4))]
    placed = fleet.step(DeviceAdded(device=LEFT))
    assert placed == [Place(request=RequestId(4), device=LEFT, pages=3)]

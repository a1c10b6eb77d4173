"""Events in, plans out, on fleets small enough to do in your head."""

import pytest

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId, RequestId
from mell_jax.scheduler.placement.events import (
    ONLY_MODEL,
    Arrive,
    DeviceAdded,
    DeviceLost,
    DeviceRemoved,
    Event,
    Finish,
    Grow,
    MoveAborted,
    MoveCommitted,
    Tick,
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
    RejectReason,
    Wait,
)
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES


class Fleet:
    """Best fit over devices of ten pages; short names for events and decisions."""

    def __init__(self, *, devices: int, policy: str = "best_fit") -> None:
        self.machine = Machine(
            models={ONLY_MODEL: ModelSpec(capacity_pages=10)},
            policy=POLICIES[policy](PolicyConfig()),
        )
        for device in range(devices):
            self.step(DeviceAdded(device=DeviceGroupId(device)))

    def step(self, event: Event) -> list[Decision]:
        decisions = self.machine.step(event).decisions
        self.machine.ledger.check()
        return list(decisions)

    def arrive(
        self, request: int, pages: int, peak: int | None = None
    ) -> list[Decision]:
        return self.step(
            Arrive(request=RequestId(request), pages=pages, peak_pages=peak)
        )

    def grow(self, request: int, pages: int) -> list[Decision]:
        return self.step(Grow(request=RequestId(request), pages=pages))

    @property
    def stalled(self) -> dict[int, dict[int, int]]:
        """Pages wanted in all by the requests that pause, on each device."""
        return {
            int(device): {int(r): pages for r, pages in instance.stalled.items()}
            for device, instance in self.machine.ledger.instances.items()
        }

    def finish(self, request: int) -> list[Decision]:
        return self.step(Finish(request=RequestId(request)))


def activate(device: int) -> Activate:
    return Activate(
        device=DeviceGroupId(device), model=ONLY_MODEL, load_s=0.0, weights_bytes=0
    )


def place(request: int, device: int, pages: int) -> Place:
    return Place(request=RequestId(request), device=DeviceGroupId(device), pages=pages)


def wait(request: int) -> Wait:
    return Wait(request=RequestId(request))


def move(number: int, request: int, way: str, pages: int) -> Move:
    source, target = way.split(">")
    return Move(
        move=MoveId(number),
        request=RequestId(request),
        source=DeviceGroupId(int(source)),
        target=DeviceGroupId(int(target)),
        pages=pages,
        is_urgent=True,
    )


def test_the_first_request_opens_a_device() -> None:
    fleet = Fleet(devices=2)
    assert fleet.arrive(1, 4) == [activate(0), place(1, 0, 4)]
    assert fleet.arrive(2, 6) == [place(2, 0, 6)]
    assert fleet.arrive(3, 1) == [activate(1), place(3, 1, 1)]


def test_an_empty_device_is_parked() -> None:
    fleet = Fleet(devices=2)
    fleet.arrive(1, 6)
    fleet.arrive(2, 6)
    assert fleet.finish(1) == [Park(device=DeviceGroupId(0))]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_last_device_of_a_model_keeps_its_cached_pages(policy: str) -> None:
    fleet = Fleet(devices=2, policy=policy)
    for request in range(3):
        decisions = fleet.arrive(request, 4)
        assert (activate(0) in decisions) == (request == 0)
        assert place(request, 0, 4) in decisions
        assert fleet.finish(request) == []
        for second in range(3):
            assert fleet.step(Tick(now_s=3.0 * request + second)) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_the_last_device_of_a_model_is_another_s_when_it_wants_it(policy: str) -> None:
    one, two = ModelId("one"), ModelId("two")
    spec = ModelSpec(capacity_pages=10)
    machine = Machine(
        models={one: spec, two: spec}, policy=POLICIES[policy](PolicyConfig())
    )
    machine.step(DeviceAdded(device=DeviceGroupId(0)))
    machine.step(Arrive(request=RequestId(1), pages=4, model=one))
    assert machine.step(Finish(request=RequestId(1))).decisions == ()
    answer = machine.step(Arrive(request=RequestId(2), pages=4, model=two))
    assert answer.decisions == (
        Park(device=DeviceGroupId(0)),
        Activate(device=DeviceGroupId(0), model=two, load_s=0.0, weights_bytes=0),
        place(2, 0, 4),
    )


def test_a_full_fleet_lets_requests_wait_in_order() -> None:
    fleet = Fleet(devices=1)
    fleet.arrive(1, 8)
    assert fleet.arrive(2, 5) == [wait(2)]
    assert fleet.arrive(3, 2) == [wait(3)]  # would fit, but nobody overtakes
    assert fleet.finish(1) == [place(2, 0, 5), place(3, 0, 2)]


def test_what_can_never_fit_is_rejected() -> None:
    fleet = Fleet(devices=1)
    too_large = [Reject(request=RequestId(1), reason=RejectReason.TOO_LARGE)]
    assert fleet.arrive(1, 11) == too_large
    assert fleet.arrive(1, 1, peak=11) == too_large


def test_growth_past_the_capacity_moves_a_request_and_pauses_until_it_is_gone() -> None:
    fleet = Fleet(devices=2)
    fleet.arrive(1, 7)
    fleet.arrive(2, 3)
    assert fleet.grow(1, 8) == [wait(1), activate(1), move(0, 2, "0>1", 3)]
    assert fleet.machine.ledger.instances[DeviceGroupId(0)].pages == 10  # both count
    assert fleet.machine.ledger.instances[DeviceGroupId(1)].pages == 3
    assert fleet.step(MoveCommitted(move=MoveId(0))) == [place(1, 0, 8)]


def test_a_request_that_is_being_moved_grows_at_both_ends() -> None:
    fleet = Fleet(devices=2)
    fleet.arrive(1, 6)
    fleet.arrive(2, 3)
    fleet.arrive(3, 1)
    fleet.grow(1, 8)  # needs two pages: 2 goes
    assert fleet.grow(2, 4) == [wait(2)]  # its source is full: the move will help
    assert fleet.step(MoveCommitted(move=MoveId(0))) == [place(1, 0, 8), place(2, 1, 4)]


def test_a_committed_move_takes_the_pause_of_its_request_along() -> None:
    fleet = Fleet(devices=2)
    fleet.arrive(1, 6)
    fleet.arrive(2, 3)
    fleet.arrive(3, 1)
    fleet.grow(1, 8)  # 2 goes to device 1, and wants a page before it is there
    fleet.grow(2, 4)
    assert fleet.stalled == {0: {1: 8, 2: 4}, 1: {2: 4}}
    fleet.step(MoveCommitted(move=MoveId(0)))
    assert fleet.stalled == {0: {}, 1: {}}


def test_an_aborted_move_is_tried_again_for_a_paused_request() -> None:
    fleet = Fleet(devices=2)
    fleet.arrive(1, 7)
    fleet.arrive(2, 3)
    fleet.grow(1, 8)
    again = fleet.step(MoveAborted(move=MoveId(0)))
    assert again == [move(1, 2, "0>1", 3)]
    assert fleet.step(MoveCommitted(move=MoveId(0))) == []  # late: that move is over
    assert fleet.step(MoveCommitted(move=MoveId(1))) == [place(1, 0, 8)]


def test_without_another_device_the_youngest_is_preempted_and_queues_first() -> None:
    fleet = Fleet(devices=1)
    fleet.arrive(1, 7)
    fleet.arrive(2, 3)
    fleet.arrive(3, 2)
    assert fleet.grow(1, 8) == [
        wait(1),
        Preempt(request=RequestId(2), device=DeviceGroupId(0)),
        place(1, 0, 8),
    ]
    assert fleet.finish(1) == [place(2, 0, 3), place(3, 0, 2)]


def test_a_finished_request_ends_its_move() -> None:
    fleet = Fleet(devices=2)
    fleet.arrive(1, 7)
    fleet.arrive(2, 3)
    fleet.grow(1, 8)
    assert fleet.finish(2) == [place(1, 0, 8), Park(device=DeviceGroupId(1))]


def test_a_lost_device_gives_its_requests_back_to_the_queue() -> None:
    fleet = Fleet(devices=2)
    fleet.arrive(1, 6)
    fleet.arrive(2, 4)
    assert fleet.step(DeviceLost(device=DeviceGroupId(0))) == [
        Preempt(request=RequestId(2), device=DeviceGroupId(0)),
        Preempt(request=RequestId(1), device=DeviceGroupId(0)),
        activate(1),
        place(1, 1, 6),
        place(2, 1, 4),
    ]


def test_a_lost_target_leaves_the_request_at_its_source() -> None:
    fleet = Fleet(devices=3)
    fleet.arrive(1, 7)
    fleet.arrive(2, 3)
    fleet.grow(1, 8)
    assert fleet.step(DeviceLost(device=DeviceGroupId(1))) == [
        activate(2),
        move(1, 2, "0>2", 3),
    ]


def test_a_device_given_back_is_emptied_first() -> None:
    fleet = Fleet(devices=2)
    fleet.arrive(1, 6)
    (opened, moved) = fleet.step(DeviceRemoved(device=DeviceGroupId(0)))
    assert opened == activate(1)
    assert isinstance(moved, Move)
    assert fleet.step(MoveCommitted(move=MoveId(0))) == [Park(device=DeviceGroupId(0))]
    assert fleet.arrive(2, 5) == [wait(2)]  # device 0 is gone for good


def test_growth_in_the_middle_of_a_move_needs_room_at_both_ends() -> None:
    fleet = Fleet(devices=2)
    fleet.arrive(1, 7)
    fleet.arrive(2, 3)
    assert move(0, 2, "0>1", 3) in fleet.grow(1, 8)
    fleet.arrive(3, 7)  # the target is full with what is to come
    fleet.finish(1)  # and the source has 7 pages of room
    assert fleet.grow(2, 4) == [wait(2), move(1, 3, "1>0", 7)]
    assert fleet.step(MoveCommitted(move=MoveId(1))) == []  # now the source is full
    assert fleet.step(MoveCommitted(move=MoveId(0))) == [place(2, 1, 4)]


def test_a_preempted_request_wants_the_page_that_it_had_no_room_for() -> None:
    fleet = Fleet(devices=1)
    fleet.arrive(1, 6)
    fleet.arrive(2, 4)
    said = fleet.grow(2, 5)  # 5 pages are not there, though 4 are
    assert said == [wait(2), Preempt(request=RequestId(2), device=DeviceGroupId(0))]
    assert fleet.finish(1) == [place(2, 0, 5)]


def test_time_goes_with_every_event_and_never_back() -> None:
    fleet = Fleet(devices=1)
    arrival = Arrive(request=RequestId(1), pages=1)
    fleet.machine.step(arrival, now_s=2.0)
    assert fleet.machine.ledger.now_s == 2.0
    assert fleet.machine.ledger.requests[RequestId(1)].queued_s == 2.0
    fleet.grow(1, 2)  # no time is that of the event before
    assert fleet.machine.ledger.now_s == 2.0
    with pytest.raises(ValueError, match="time goes back"):
        fleet.machine.step(Finish(request=RequestId(1)), now_s=1.0)

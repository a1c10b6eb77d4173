"""Growth that has room, without a plan; and requests that may not go everywhere."""

import pytest

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement.events import (
    ONLY_MODEL,
    Arrive,
    DeviceAdded,
    DevicesLost,
    Event,
    Finish,
    Grow,
    Tick,
)
from mell_jax.scheduler.placement.machine import AHEAD_SHARE, Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.plan import Activate, Decision, Place, Preempt, Wait
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES

ONE, TWO, THREE = RequestId(1), RequestId(2), RequestId(3)


class Fleet:
    """Best fit over devices; `barred` has what may not be together."""

    def __init__(self, *, devices: int, pages: int) -> None:
        self.barred: set[tuple[RequestId, DeviceGroupId]] = set()
        self.machine = Machine(
            models={ONLY_MODEL: ModelSpec(capacity_pages=pages)},
            policy=POLICIES["best_fit"](PolicyConfig()),
            may_go=lambda request, device: (request, device) not in self.barred,
        )
        for device in range(devices):
            self.step(DeviceAdded(device=DeviceGroupId(device)))

    def step(self, event: Event) -> list[Decision]:
        decisions = self.machine.step(event).decisions
        self.machine.ledger.check()
        return list(decisions)

    def arrive(
        self, request: RequestId, *, pages: int, peak: int | None = None
    ) -> list[Decision]:
        return self.step(Arrive(request=request, pages=pages, peak_pages=peak))

    def extend(self, request: RequestId, *, pages: int, most: int = 0) -> int:
        got = self.machine.extend(request, pages=pages, most=most)
        self.machine.ledger.check()
        return got

    def bar(self, request: RequestId, *devices: int) -> None:
        self.barred |= {(request, DeviceGroupId(device)) for device in devices}

    def home(self, request: RequestId) -> int | None:
        return self.machine.ledger.requests[request].device


def place(request: RequestId, device: int, *, pages: int) -> Place:
    return Place(request=request, device=DeviceGroupId(device), pages=pages)


# Growth.


def test_a_request_grows_where_it_is_as_far_as_there_is_room() -> None:
    fleet = Fleet(devices=1, pages=10)
    fleet.arrive(ONE, pages=4)
    assert fleet.extend(ONE, pages=6) == 6
    assert fleet.extend(ONE, pages=5) == 6  # it has them
    assert fleet.extend(ONE, pages=11) == 6  # there is no room
    assert fleet.machine.ledger.total_pages(ONLY_MODEL) == 6


@pytest.mark.parametrize(
    ("most", "peak", "got"),
    [
        (0, None, 10),
        (3, None, 13),
        (99, None, 10 + 150 // AHEAD_SHARE),  # a share of what is free then
        (3, 11, 11),  # it will never need more
        (3, 8, 10),  # its peak was wrong
    ],
)
def test_it_gets_a_share_of_what_is_free_beforehand(
    most: int, peak: int | None, got: int
) -> None:
    fleet = Fleet(devices=1, pages=160)
    fleet.arrive(ONE, pages=4, peak=peak)
    assert fleet.extend(ONE, pages=10, most=most) == got


def test_what_is_given_beforehand_is_never_more_than_is_free() -> None:
    fleet = Fleet(devices=1, pages=40)
    fleet.arrive(ONE, pages=4)
    fleet.arrive(TWO, pages=4)
    for request in (ONE, TWO) * 8:
        has = fleet.machine.ledger.requests[request].pages
        fleet.extend(request, pages=has + 1, most=8)
    # One page with each of 16, and another with each of the first 8: until less than
    # 16 were free.
    assert fleet.machine.ledger.total_pages(ONLY_MODEL) == 4 + 4 + 16 + 8


def test_nobody_passes_who_waits_for_room() -> None:
    fleet = Fleet(devices=1, pages=10)
    fleet.arrive(ONE, pages=4)
    fleet.arrive(TWO, pages=4)
    assert Wait(request=ONE) in fleet.step(Grow(request=ONE, pages=7))
    live = [r for r in (ONE, TWO) if fleet.home(r) is not None]
    assert live  # the other one had to go
    stalled = fleet.machine.ledger.instances[DeviceGroupId(0)].stalled
    for request in live:
        has = fleet.machine.ledger.requests[request].pages
        expected = has if stalled else has + 1
        assert fleet.extend(request, pages=has + 1) == expected


def test_a_request_without_a_place_gets_nothing() -> None:
    fleet = Fleet(devices=0, pages=10)
    fleet.arrive(ONE, pages=4)
    assert fleet.extend(ONE, pages=5) == 4


# Where they may go.


def test_a_request_goes_to_another_place_than_where_it_may_not_be() -> None:
    fleet = Fleet(devices=3, pages=10)
    fleet.arrive(ONE, pages=6)
    fleet.bar(TWO, 0, 1)
    decisions = fleet.arrive(TWO, pages=3)  # there is room with the first one
    assert [type(decision) for decision in decisions] == [Activate, Place]
    assert decisions[1] == place(TWO, 2, pages=3)
    fleet.bar(THREE, 0)
    assert fleet.arrive(THREE, pages=2) == [place(THREE, 2, pages=2)]


def test_who_may_go_nowhere_waits_and_nobody_waits_behind_it() -> None:
    fleet = Fleet(devices=1, pages=10)
    fleet.arrive(ONE, pages=6)
    fleet.bar(TWO, 0)
    assert fleet.arrive(TWO, pages=2) == [Wait(request=TWO)]
    assert fleet.machine.waiting == 1
    assert fleet.arrive(THREE, pages=2) == [place(THREE, 0, pages=2)]
    fleet.barred.clear()
    assert fleet.step(Tick(now_s=1.0)) == [place(TWO, 0, pages=2)]
    assert fleet.machine.waiting == 0


def test_who_waits_aside_may_end() -> None:
    fleet = Fleet(devices=1, pages=10)
    fleet.bar(ONE, 0)
    fleet.arrive(ONE, pages=2)
    fleet.step(Finish(request=ONE))
    assert fleet.machine.waiting == 0
    assert fleet.step(Tick(now_s=1.0)) == []


# Loss.


def test_what_is_lost_together_is_placed_on_none_of_it() -> None:
    fleet = Fleet(devices=3, pages=10)
    fleet.arrive(ONE, pages=9)
    fleet.arrive(TWO, pages=2)
    lost = DevicesLost(devices=(DeviceGroupId(0), DeviceGroupId(1)))
    decisions = fleet.step(lost)
    preempted = [d.request for d in decisions if isinstance(d, Preempt)]
    assert preempted == [TWO, ONE]
    assert [d for d in decisions if isinstance(d, Place)] == [place(ONE, 2, pages=9)]
    assert fleet.machine.waiting == 1


def test_an_unknown_device_cannot_be_lost() -> None:
    fleet = Fleet(devices=1, pages=10)
    with pytest.raises(ValueError, match="unknown device 7"):
        fleet.step(DevicesLost(devices=(DeviceGroupId(0), DeviceGroupId(7))))
    assert fleet.machine.ledger.is_idle(DeviceGroupId(0))

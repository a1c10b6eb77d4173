"""A plan that found no room is planned again at the next epoch, or not at all."""

from collections.abc import Callable

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.events import (
    ONLY_MODEL,
    Arrive,
    DeviceAdded,
    Event,
    Finish,
    Tick,
)
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.plan import Decision, Move
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.worst_fit import WorstFit

A, B = DeviceGroupId(0), DeviceGroupId(1)


class Planned(WorstFit):
    """Worst fit, which does at epochs what the test says."""

    def __init__(self) -> None:
        super().__init__(PolicyConfig())
        self.at_epoch: Callable[[Draft], None] = lambda draft: None

    def epoch(self, draft: Draft) -> None:
        self.at_epoch(draft)


class Fleet:
    """Devices of ten pages; requests 1 (6 pages) on one and 2 (7 pages) on another."""

    def __init__(self) -> None:
        self.policy = Planned()
        spec = ModelSpec(capacity_pages=10)
        self.machine = Machine(models={ONLY_MODEL: spec}, policy=self.policy)
        for device in (A, B):
            self.step(DeviceAdded(device=device))
        for request, pages in ((1, 6), (2, 7)):
            self.step(Arrive(request=RequestId(request), pages=pages))

    def step(self, event: Event) -> list[Decision]:
        decisions = list(self.machine.step(event).decisions)
        self.machine.ledger.check()
        return decisions

    def shift(self, draft: Draft) -> None:
        draft.shift(draft.ledger.requests[RequestId(1)], B)


def test_a_move_without_room_begins_as_soon_as_there_is_some() -> None:
    fleet = Fleet()
    fleet.policy.at_epoch = fleet.shift
    assert fleet.step(Tick(now_s=1.0)) == []
    (moved, *_) = fleet.step(Finish(request=RequestId(2)))
    assert isinstance(moved, Move)
    assert (moved.request, moved.source, moved.target) == (1, A, B)


def test_a_move_without_room_is_forgotten_when_the_next_epoch_wants_it_no_more() -> (
    None
):
    fleet = Fleet()
    fleet.policy.at_epoch = fleet.shift
    fleet.step(Tick(now_s=1.0))
    fleet.policy.at_epoch = lambda draft: None
    assert fleet.step(Tick(now_s=2.0)) == []
    after = fleet.step(Finish(request=RequestId(2)))
    assert not [decision for decision in after if isinstance(decision, Move)]

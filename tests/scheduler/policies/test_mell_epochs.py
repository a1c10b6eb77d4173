"""What an epoch of MELL planned in vain, on instances of 24 pages."""

from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.placement.events import (
    ONLY_MODEL,
    Arrive,
    DeviceAdded,
    Event,
    Finish,
    MoveAborted,
    MoveCommitted,
    Tick,
)
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.plan import Move
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.mell import Mell


class Fleet:
    """It says which requests begin to move: (move, request, source, target)."""

    def __init__(self, *sizes: int) -> None:
        self.machine = Machine(
            models={ONLY_MODEL: ModelSpec(capacity_pages=24)},
            policy=Mell(PolicyConfig()),
        )
        for device in range(4):
            self.step(DeviceAdded(device=DeviceGroupId(device)))
        for request, pages in enumerate(sizes):
            self.step(Arrive(request=RequestId(request), pages=pages))

    def step(self, event: Event) -> list[tuple[int, int, int, int]]:
        decisions = self.machine.step(event).decisions
        self.machine.ledger.check()
        return [
            (d.move, d.request, d.source, d.target)
            for d in decisions
            if isinstance(d, Move)
        ]


def test_a_move_that_was_aborted_is_planned_again() -> None:
    fleet = Fleet(14, 6, 10)  # d0 [14 6]  d1 [10]: the 10 and the 6 change places
    assert fleet.step(Tick(now_s=1.0)) == [(0, 1, 0, 1)]
    assert fleet.step(MoveAborted(move=MoveId(0))) == []
    assert fleet.step(Tick(now_s=2.0)) == [(1, 1, 0, 1)]
    assert fleet.step(MoveCommitted(move=MoveId(1))) == [(2, 2, 1, 0)]
    assert fleet.step(MoveCommitted(move=MoveId(2))) == []
    assert fleet.step(Tick(now_s=3.0)) == []


def test_what_moves_still_or_is_over_is_not_planned_again() -> None:
    fleet = Fleet(14, 6, 10)
    assert fleet.step(Tick(now_s=1.0)) == [(0, 1, 0, 1)]
    assert fleet.step(Tick(now_s=2.0)) == []  # the 6 is still on its way
    fleet.step(Finish(request=RequestId(2)))
    assert fleet.step(MoveCommitted(move=MoveId(0))) == []

"""Counts and gaps of moves."""

import numpy as np

from mell_jax.engine.fleet.tally import FleetTally
from mell_jax.engine.fleet_view import MoveEnd, MoveOutcome, MoveReason
from mell_jax.engine.frames import Handle, StepFrame
from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.events import MoveAborted, MoveCommitted
from mell_jax.scheduler.transfer import Mode

ONE, TWO = Handle(1), Handle(2)
DEVICE = DeviceGroupId(0)


def frame(*handles: int) -> StepFrame:
    return StepFrame(
        handles=np.array(handles, np.int64), tokens=np.zeros(len(handles), np.int32)
    )


def move(number: int, *, is_urgent: bool) -> plan.Move:
    return plan.Move(
        move=MoveId(number),
        request=RequestId(number),
        source=DeviceGroupId(0),
        target=DeviceGroupId(1),
        pages=1,
        is_urgent=is_urgent,
    )


def test_moves_are_counted_by_reason_mode_and_outcome() -> None:
    tally = FleetTally()
    tally.begin_move(move(1, is_urgent=True), mode=Mode.KV, handle=ONE)
    tally.begin_move(move(2, is_urgent=False), mode=Mode.TOKENS, handle=TWO)
    tally.end_move(MoveCommitted(move=MoveId(1)))
    tally.end_move(MoveAborted(move=MoveId(2)))
    tally.end_move(MoveAborted(move=MoveId(3)))  # never began
    stats = tally.stats()
    assert stats.begun == {Mode.KV: 1, Mode.TOKENS: 1}
    urgent = MoveEnd(
        reason=MoveReason.URGENT, mode=Mode.KV, outcome=MoveOutcome.COMMITTED
    )
    other = MoveEnd(
        reason=MoveReason.CONSOLIDATION, mode=Mode.TOKENS, outcome=MoveOutcome.ABORTED
    )
    assert stats.ended == {urgent: 1, other: 1}
    assert stats.count(MoveOutcome.COMMITTED) == 1
    assert stats.carried == {(0, 1): 1}
    assert tally.under_way == 0


def test_a_gap_is_from_the_last_token_there_to_the_first_here() -> None:
    tally = FleetTally()
    tally.launch(DEVICE)
    tally.begin_round(10.0)
    tally.stop_row(ONE)
    tally.see(frame(1))  # of the same step: the last token of the source
    tally.launch(DEVICE)
    tally.begin_round(10.5)
    tally.see(frame(2))
    tally.launch(DEVICE)
    tally.launch(DeviceGroupId(1))  # slower, at its first
    tally.begin_round(12.0)
    tally.see(frame(1, 2))
    tally.see(frame(1))
    stats = tally.stats()
    assert stats.gap_steps.counts == (0, 1, 0, 0, 0, 0, 0, 0)
    assert stats.gap_s.total == 2.0


def test_a_move_that_is_called_off_leaves_no_gap() -> None:
    tally = FleetTally()
    tally.begin_move(move(1, is_urgent=False), mode=Mode.KV, handle=ONE)
    tally.begin_round(0.0)
    tally.stop_row(ONE)
    tally.end_move(MoveAborted(move=MoveId(1)))
    tally.begin_round(1.0)
    tally.see(frame(1))
    assert tally.stats().gap_steps.count == 0


def test_stats_do_not_change_afterwards() -> None:
    tally = FleetTally()
    before = tally.stats()
    tally.begin_move(move(1, is_urgent=False), mode=Mode.KV, handle=ONE)
    assert before.begun == {}

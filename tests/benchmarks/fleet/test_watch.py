from benchmarks.fleet.watch import Gap, Log
from mell_jax.engine.frames import Handle
from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.placement import events, plan
from tests.benchmarks.fleet.frames import frame_of

A, R, M = Handle(7), RequestId(1), MoveId(3)


def moving_log():
    """A request that got a token in rounds 0, 1 and 2 and is being moved since 1."""
    log = Log(lambda: float(log.rounds))
    log.note(A, R)
    log.read(frame_of(A))
    move = plan.Move(
        move=M,
        request=R,
        source=DeviceGroupId(0),
        target=DeviceGroupId(1),
        pages=5,
        is_urgent=False,
    )
    log.answered(plan.Plan(decisions=(move,)), devices=2)
    log.read(frame_of(A))
    log.read(frame_of(A))
    return log


def test_downtime_is_from_the_last_token_before_to_the_first_one_after():
    log = moving_log()
    log.heard(events.MoveCommitted(move=M), is_open=lambda move: True)
    log.read(None)  # round 3
    log.read(frame_of(A))
    log.read(frame_of(A))
    assert log.gaps() == [Gap(steps=2, seconds=2.0)]
    assert [move.pages for move in log.moves] == [5]


def test_a_move_overtaken_by_the_end_of_its_request_has_no_downtime():
    log = moving_log()
    log.heard(events.Finish(request=R), is_open=lambda move: True)
    assert [move.is_committed for move in log.moves] == [False]
    assert log.gaps() == []


def test_a_report_of_a_move_that_is_over_counts_for_nothing():
    log = moving_log()
    log.heard(events.MoveCommitted(move=M), is_open=lambda move: False)
    assert log.moves == []


def test_preemptions_and_devices_are_counted():
    devices = []
    log = Log(lambda: 0.0, on_devices=devices.append)
    park = plan.Park(device=DeviceGroupId(0))
    preempt = plan.Preempt(request=R, device=DeviceGroupId(0))
    log.answered(plan.Plan(decisions=(preempt, park)), devices=4)
    assert (log.preemptions, devices) == (1, [4])

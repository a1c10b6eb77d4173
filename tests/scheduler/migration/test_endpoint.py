"""One device's end, told things late, twice and in the wrong order."""

import dataclasses
import itertools
from typing import Any

import pytest

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.endpoint import Effects, Endpoint
from mell_jax.scheduler.migration.messages import CONTROLLER
from mell_jax.scheduler.migration.source import StagingLimits
from mell_jax.scheduler.transfer import Mode

ONE = RequestId(1)
HERE, THERE = DeviceGroupId(0), DeviceGroupId(1)
OLD, NEW = CopyId(7), CopyId(9)
LIMITS = StagingLimits(page_tokens=16)

START = messages.Start(request=ONE, copy_id=OLD, known=100, horizon=OLD)
BEGIN = messages.Begin(
    request=ONE,
    copy_id=OLD,
    to_copy_id=NEW,
    target=THERE,
    mode=Mode.KV,
    first=0,
    known=100,
    is_urgent=False,
)
RESUME = messages.Resume(request=ONE, copy_id=OLD, to_copy_id=NEW)
RESUMED = messages.Resumed(request=ONE, copy_id=OLD, to_copy_id=NEW)
RESERVE = messages.Reserve(
    request=ONE, copy_id=NEW, mode=Mode.KV, pages=8, known=100, horizon=NEW
)
TOOK = events.Took(request=ONE, copy_id=NEW, cached=0)
RESERVED = messages.Reserved(request=ONE, copy_id=NEW, cached=0)
READY = messages.Ready(request=ONE, copy_id=NEW)


def release(copy_id: CopyId, *, horizon: int) -> messages.Release:
    return messages.Release(request=ONE, copy_id=copy_id, horizon=CopyId(horizon))


def chunk(first: int, end: int, *, is_last: bool = False) -> messages.Chunk:
    return messages.Chunk(
        request=ONE,
        copy_id=NEW,
        from_copy_id=OLD,
        source=HERE,
        mode=Mode.KV,
        first=first,
        end=end,
        is_last=is_last,
    )


def instance(*before: messages.ToEndpoint | events.EndpointEvent) -> Endpoint:
    made = Endpoint(HERE, limits=LIMITS, horizon=CopyId(5))
    for event in before:
        made.step(event)
    return made


def said(done: Effects, *, to: DeviceGroupId = CONTROLLER) -> list[messages.Message]:
    return [e.message for e in done if isinstance(e, effects.Send) and e.to == to]


def computed(positions: int) -> events.Computed:
    return events.Computed(request=ONE, copy_id=OLD, computed=positions)


def written(end: int) -> events.Written:
    return events.Written(request=ONE, copy_id=NEW, end=end)


STOPPING = (START, BEGIN, computed(20))
ROW_STOPPED = events.RowStopped(request=ONE, copy_id=OLD, computed=21, tail=(3, 4))
STOPPED = messages.Stopped(
    request=ONE, copy_id=OLD, to_copy_id=NEW, since=100, tail=(3, 4)
)
RECEIVING = (RESERVE, TOOK)


# Openings.


def test_a_doubled_start_is_answered_and_starts_nothing() -> None:
    done = instance(START).step(START)
    assert done == (
        effects.Send(to=CONTROLLER, message=messages.Started(request=ONE, copy_id=OLD)),
    )


@pytest.mark.parametrize("horizon", [7, 8])  # below or above what was released
def test_an_opening_that_comes_after_its_release_is_ignored(horizon: int) -> None:
    late = instance(START, release(OLD, horizon=horizon))
    assert late.step(START) == ()
    assert late.copies == []


def test_an_opening_that_is_overtaken_by_its_release_is_ignored() -> None:
    late = instance(release(NEW, horizon=5))
    assert late.step(RESERVE) == ()
    assert late.copies == []


def test_openings_for_the_device_before_it_was_lost_are_ignored() -> None:
    fresh = Endpoint(HERE, limits=LIMITS, horizon=CopyId(8))
    assert fresh.step(START) == ()


def test_the_memory_of_what_was_released_is_cut_at_the_horizon() -> None:
    busy = instance(release(CopyId(6), horizon=5), release(OLD, horizon=5))
    busy.step(release(NEW, horizon=9))
    assert busy._released == {NEW}


def test_a_release_frees_once_and_is_always_answered() -> None:
    here = instance(START)
    answer = effects.Send(
        to=CONTROLLER, message=messages.Released(request=ONE, copy_id=OLD)
    )
    freed = effects.Free(request=ONE, copy_id=OLD)
    assert here.step(release(OLD, horizon=8)) == (freed, answer)
    assert here.step(release(OLD, horizon=8)) == (answer,)


# Source.


def in_pieces(**change: Any) -> Endpoint:
    limits = dataclasses.replace(LIMITS, piece_pages=2)
    made = Endpoint(HERE, limits=limits, horizon=CopyId(5))
    made.step(START)
    made.step(dataclasses.replace(BEGIN, **change))
    return made


def sent(endpoint: Endpoint, event: events.Computed) -> tuple[int, int] | None:
    """Returns from where to where what is sent next goes."""
    said_there = said(endpoint.step(event), to=THERE)
    if not said_there:
        return None
    (piece,) = said_there
    assert piece.ends_stage == (piece.end == 192) and not piece.is_last
    return piece.first, piece.end


def received(end: int) -> messages.Received:
    return messages.Received(request=ONE, copy_id=OLD, to_copy_id=NEW, end=end)


def test_a_stage_goes_in_pieces_that_grow_while_they_arrive_within_a_step() -> None:
    source = in_pieces()
    assert sent(source, computed(200)) == (0, 32)
    assert sent(source, computed(201)) is None  # it has not arrived
    source.step(received(32))
    assert sent(source, computed(201)) == (32, 96)
    for step in (202, 203):
        assert sent(source, computed(step)) is None
    source.step(received(96))
    assert sent(source, computed(203)) == (96, 160)  # it took two
    source.step(received(160))
    assert sent(source, computed(204)) == (160, 192)  # what is left of the stage
    source.step(received(192))
    assert source.step(computed(204)) == (
        effects.StopRow(request=ONE, copy_id=OLD, since=100),
    )


def test_a_copy_is_coming_from_its_reservation_to_its_commit() -> None:
    target = instance()
    assert not target.is_coming(NEW)
    for event in RECEIVING:
        target.step(event)
        assert target.is_coming(NEW)
    target.step(chunk(0, 21, is_last=True))
    target.step(written(21))
    assert target.is_coming(NEW)
    target.step(messages.Commit(request=ONE, copy_id=NEW, since=100, tail=(3, 4)))
    assert NEW in target.copies
    assert not target.is_coming(NEW)


def test_pieces_go_on_though_the_row_stands() -> None:
    source = in_pieces()
    ends = [sent(source, computed(200))]
    while ends[-1] is not None:
        source.step(received(ends[-1][1]))
        ends.append(sent(source, computed(200)))
    assert ends == [(0, 32), (32, 96), (96, 192), None]


def test_what_the_target_has_beyond_a_piece_is_not_sent() -> None:
    source = in_pieces()
    assert sent(source, computed(200)) == (0, 32)
    source.step(received(96))
    assert sent(source, computed(201)) == (96, 160)


def test_pieces_grow_to_a_bound() -> None:
    source, ends = in_pieces(), [0]
    for _ in range(8):
        (piece,) = said(source.step(computed(16_000)), to=THERE)
        ends.append(piece.end)
        source.step(received(piece.end))
    sizes = [(b - a) // 32 for a, b in itertools.pairwise(ends)]
    assert sizes == [1, 2, 4, 8, 16, 16, 16, 16]


@pytest.mark.parametrize("change", [{"is_urgent": True}, {"mode": Mode.TOKENS}])
def test_an_urgent_move_and_one_of_tokens_go_at_once(change: dict[str, Any]) -> None:
    assert sent(in_pieces(**change), computed(200)) == (0, 192)


def test_a_source_that_hears_nothing_says_so_again_and_does_not_resume() -> None:
    source = instance(*STOPPING, ROW_STOPPED)
    last = chunk(0, 21, is_last=True)
    for _ in range(3):
        done = source.step(events.Resend())
        assert said(done) == [STOPPED]
        assert said(done, to=THERE) == [last]
        assert len(done) == 2
    assert source.step(computed(21)) == ()


def test_a_lost_chunk_is_sent_again_until_it_is_received() -> None:
    source = instance(START, BEGIN)
    assert said(source.step(computed(99)), to=THERE) == [chunk(0, 96)]
    assert source.step(computed(100)) == ()  # one at a time
    assert said(source.step(events.Resend()), to=THERE) == [chunk(0, 96)]
    got = messages.Received(request=ONE, copy_id=OLD, to_copy_id=NEW, end=96)
    source.step(got)
    assert source.step(events.Resend()) == []
    assert source.step(got) == ()  # doubled


def test_a_move_that_is_off_cannot_begin_again() -> None:
    source = instance(START)
    assert said(source.step(RESUME)) == [RESUMED]  # it overtook its Begin
    assert source.step(BEGIN) == ()
    assert not source.is_moving(OLD)


def test_a_late_resume_does_not_touch_the_next_move() -> None:
    second = CopyId(12)
    again = dataclasses.replace(BEGIN, to_copy_id=second)
    source = instance(START, BEGIN, RESUME, again)
    assert list(source.step(RESUME)) == [effects.Send(to=CONTROLLER, message=RESUMED)]
    assert source.is_moving(OLD)
    assert source.step(again) == ()  # doubled


def test_a_late_received_of_an_older_move_does_not_acknowledge_the_next_one() -> None:
    second = CopyId(12)
    again = dataclasses.replace(BEGIN, to_copy_id=second)
    source = instance(START, BEGIN, computed(99), RESUME, again)
    resent = dataclasses.replace(chunk(0, 96), copy_id=second)
    assert said(source.step(computed(100)), to=THERE) == [resent]
    late = messages.Received(request=ONE, copy_id=OLD, to_copy_id=NEW, end=96)
    assert source.step(late) == ()
    # The second target has nothing: the row may not go on as if it had.
    assert source.step(computed(101)) == ()
    assert said(source.step(events.Resend()), to=THERE) == [resent]


def test_a_row_that_decodes_needs_no_resuming() -> None:
    source = instance(START, BEGIN, computed(99))
    assert list(source.step(RESUME)) == [effects.Send(to=CONTROLLER, message=RESUMED)]


def test_a_row_that_was_stopped_is_resumed_once() -> None:
    source = instance(*STOPPING, ROW_STOPPED)
    assert effects.ResumeRow(request=ONE, copy_id=OLD) in source.step(RESUME)
    assert effects.ResumeRow(request=ONE, copy_id=OLD) not in source.step(RESUME)


def test_a_lost_row_gives_its_move_up_until_it_is_answered() -> None:
    source = instance(*STOPPING, ROW_STOPPED)
    lost = events.RowLost(request=ONE, copy_id=OLD)
    gave_up = messages.GaveUp(request=ONE, copy_id=OLD, to_copy_id=NEW)
    assert said(source.step(lost)) == [gave_up]
    done = source.step(events.Resend())
    assert list(done) == [effects.Send(to=CONTROLLER, message=gave_up)]
    assert source.step(ROW_STOPPED) == ()


def test_a_row_that_moves_nowhere_is_not_listened_to() -> None:
    quiet = instance(START)
    for event in (computed(5), ROW_STOPPED, events.RowLost(request=ONE, copy_id=OLD)):
        assert quiet.step(event) == ()


# Destination.


def test_a_doubled_reserve_takes_pages_once() -> None:
    destination = instance()
    assert [type(e) for e in destination.step(RESERVE)] == [effects.TakePages]
    assert destination.step(RESERVE) == ()  # still being taken
    assert said(destination.step(TOOK)) == [RESERVED]
    assert list(destination.step(RESERVE)) == [
        effects.Send(to=CONTROLLER, message=RESERVED)
    ]
    assert destination.step(TOOK) == ()


def test_a_chunk_that_is_there_is_received_again_but_not_written() -> None:
    destination = instance(*RECEIVING, chunk(0, 96), written(96))
    got = messages.Received(request=ONE, copy_id=OLD, to_copy_id=NEW, end=96)
    done = destination.step(chunk(0, 96))
    assert list(done) == [effects.Send(to=HERE, message=got)]


def test_a_chunk_is_not_written_twice_at_once_nor_out_of_order() -> None:
    destination = instance(*RECEIVING)
    assert destination.step(chunk(96, 112)) == ()
    assert len(destination.step(chunk(0, 96))) == 1
    assert destination.step(chunk(0, 96)) == ()


def test_a_chunk_for_a_copy_that_was_released_is_not_written() -> None:
    destination = instance(*RECEIVING, release(NEW, horizon=10))
    assert destination.step(chunk(0, 96)) == ()
    assert destination.step(written(96)) == ()


def test_all_being_there_is_said_until_the_controller_has_decided() -> None:
    destination = instance(*RECEIVING, chunk(0, 21, is_last=True))
    assert READY in said(destination.step(written(21)))
    assert said(destination.step(events.Resend())) == [READY]
    assert destination.step(written(21)) == ()


def test_a_failed_write_refuses_the_move() -> None:
    destination = instance(*RECEIVING, chunk(0, 96))
    refused = messages.Refused(request=ONE, copy_id=NEW)
    failed = events.Failed(request=ONE, copy_id=NEW)
    assert said(destination.step(failed)) == [refused]
    assert said(destination.step(RESERVE)) == [refused]
    assert destination.step(written(96)) == ()
    assert destination.copies == [NEW]  # until it is released


def test_a_commit_starts_the_row_once() -> None:
    commit = messages.Commit(request=ONE, copy_id=NEW, since=100, tail=(3, 4))
    destination = instance(*RECEIVING, chunk(0, 21, is_last=True), written(21))
    started = messages.Started(request=ONE, copy_id=NEW)
    row = effects.StartRow(
        request=ONE, copy_id=NEW, computed=21, since=100, tail=(3, 4)
    )
    assert destination.step(commit)[0] == row
    for late in (commit, RESERVE, chunk(0, 21, is_last=True), TOOK, written(21)):
        assert row not in destination.step(late)
    assert said(destination.step(commit)) == [started]
    destination.step(release(NEW, horizon=10))
    assert destination.step(commit) == ()


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="tail_pages must be >= 1, got 0"):
        StagingLimits(page_tokens=16, tail_pages=0)


# A new controller.


def keep(*copies: CopyId, horizon: int = 100) -> events.Keep:
    return events.Keep(copies=frozenset(copies), horizon=CopyId(horizon))


def test_a_copy_that_a_new_controller_does_not_know_is_freed_unasked() -> None:
    held = instance(START)
    assert held.step(keep()) == [effects.Free(request=ONE, copy_id=OLD)]
    assert held.copies == []


def test_a_copy_that_it_knows_runs_on() -> None:
    held = instance(START)
    assert held.step(keep(OLD)) == []
    assert held.copies == [OLD]


def test_a_row_that_was_stopped_for_a_move_of_the_predecessor_goes_on() -> None:
    held = instance(*STOPPING, ROW_STOPPED)
    assert held.step(keep(OLD)) == [effects.ResumeRow(request=ONE, copy_id=OLD)]
    assert not held.is_moving(OLD)
    assert held.step(BEGIN) == ()  # of the predecessor, and late


def test_a_row_that_was_not_stopped_yet_has_nothing_to_resume() -> None:
    held = instance(START, BEGIN)
    assert held.step(keep(OLD)) == []
    assert not held.is_moving(OLD)


def test_a_destination_that_nobody_knows_is_freed() -> None:
    held = instance(*RECEIVING)
    assert held.step(keep()) == [effects.Free(request=ONE, copy_id=NEW)]


def test_a_destination_that_is_kept_is_still_one() -> None:
    held = instance(*RECEIVING)
    assert held.step(keep(NEW)) == []
    assert held.copies == [NEW]


def test_openings_of_the_predecessor_that_come_later_open_nothing() -> None:
    held = instance(keep(horizon=8))
    assert held.step(START) == ()
    assert said(held.step(RESERVE)) == []  # it takes pages first
    assert held.copies == [NEW]


def test_what_the_new_controller_has_opened_already_stays() -> None:
    held = instance(START)
    assert held.step(keep(horizon=7)) == []
    assert held.copies == [OLD]


def test_a_copy_is_whole_that_runs_or_has_all_that_a_commit_needs() -> None:
    assert instance(START).is_whole(OLD)
    assert not instance(START).is_whole(NEW)
    assert not instance(*RECEIVING).is_whole(NEW)
    ready = instance(*RECEIVING, chunk(0, 20, is_last=True), written(20))
    assert ready.is_whole(NEW)

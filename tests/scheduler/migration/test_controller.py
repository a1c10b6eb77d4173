"""The protocol in one process: what is done where, in order."""

import pytest

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, MoveId
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.controller import Controller
from mell_jax.scheduler.placement.events import MoveCommitted
from mell_jax.scheduler.transfer import Mode
from tests.scheduler.migration.loop import (
    LEFT,
    ONE,
    RIGHT,
    THIRD,
    Loop,
    begin_move,
)


def moving(**options: int) -> Loop:
    """A request of 100 tokens runs on the left and is being moved to the right."""
    loop = Loop(**options)
    loop.place(LEFT)
    loop.move(RIGHT)
    return loop


def test_a_placed_request_starts_with_nothing_computed() -> None:
    loop = Loop()
    loop.place(LEFT)
    assert loop.trace == ["fence 1", "left: start at 0 ()"]


def test_a_move_copies_full_pages_then_stops_the_row_and_switches() -> None:
    loop = moving()
    loop.computed(LEFT, 99)
    loop.computed(LEFT, 101)
    loop.stopped(LEFT, 102, 7, 8, 9)
    assert loop.trace == [
        "fence 1",
        "left: start at 0 ()",
        "right: take 8",
        "left: WatchRow",
        "right: write 0:96",
        "left: stop, tokens since 100",
        "deliver [7, 8, 9]",
        "right: write 96:102",
        "fence 2",
        "left: Free",
        "right: start at 102 (7, 8, 9)",
        "MoveCommitted",
    ]
    assert loop.controller.owners[ONE].home == RIGHT
    assert loop.instances[LEFT].copies == []


def test_what_the_destination_has_by_prefix_is_not_sent() -> None:
    loop = moving(cached=64)
    loop.computed(LEFT, 99)
    assert loop.trace[-1] == "right: write 64:96"


def test_a_short_request_is_stopped_at_once_and_copied_whole() -> None:
    loop = Loop()
    loop.place(LEFT, known=20)
    loop.move(RIGHT, known=20)
    loop.computed(LEFT, 19)
    loop.stopped(LEFT, 20, 5)
    assert loop.trace[3:] == [
        "left: WatchRow",
        "left: stop, tokens since 20",
        "deliver [5]",
        "right: write 0:20",
        "fence 2",
        "left: Free",
        "right: start at 20 (5,)",
        "MoveCommitted",
    ]


def test_a_destination_with_more_than_the_source_needs_an_empty_chunk() -> None:
    loop = moving(cached=96)
    loop.computed(LEFT, 50)  # the source is still prefilling
    loop.stopped(LEFT, 50)
    assert "right: write 96:96" in loop.trace
    assert "right: start at 96 ()" in loop.trace


def test_a_move_gives_up_when_the_rest_does_not_shrink() -> None:
    loop = moving(max_stages=2)
    loop.take_trace()
    for positions in (100, 200, 300):
        loop.computed(LEFT, positions)
    assert loop.take_trace() == [
        "right: write 0:96",
        "right: write 96:192",
        "right: Free",
        "MoveAborted",
    ]
    assert loop.controller.owners[ONE].home == LEFT


def test_an_urgent_move_stops_the_row_instead_of_giving_up() -> None:
    loop = Loop(max_stages=1)
    loop.place(LEFT)
    loop.move(RIGHT, is_urgent=True, mode=Mode.TOKENS)
    for positions in (100, 200):
        loop.computed(LEFT, positions)
    assert loop.trace[-1] == "left: stop, tokens since 100"


def test_a_destination_without_room_refuses_and_the_row_never_notices() -> None:
    loop = Loop()
    loop.has_room = False
    loop.place(LEFT)
    loop.take_trace()
    loop.move(RIGHT)
    assert loop.take_trace() == ["right: Free", "MoveAborted"]


def test_a_call_to_abort_frees_the_destination_and_resumes_a_stopped_row() -> None:
    loop = moving()
    loop.computed(LEFT, 30)
    loop.take_trace()
    loop.order(events.AbortMove(request=ONE, move=MoveId(5)))
    assert loop.take_trace() == ["right: Free", "left: ResumeRow", "MoveAborted"]
    loop.order(events.AbortMove(request=ONE, move=MoveId(5)))
    assert loop.take_trace() == []


def test_a_row_that_is_preempted_while_it_stands_still_resumes_by_order_only() -> None:
    loop = moving()
    loop.computed(LEFT, 30)
    loop.take_trace()
    copy_id = loop.copy_on(LEFT)
    loop.tell(LEFT, events.RowLost(request=ONE, copy_id=copy_id))
    assert loop.take_trace() == ["right: Free", "left: ResumeRow", "MoveAborted"]
    loop.stopped(LEFT, 30)  # too late
    assert loop.take_trace() == []


def test_a_request_that_ends_in_a_move_leaves_both_devices() -> None:
    loop = moving()
    loop.take_trace()
    loop.order(events.End(request=ONE))
    assert loop.take_trace() == [
        "MoveAborted",
        "fence 3",
        "right: Free",
        "left: Free",
        "forget",
    ]
    loop.order(events.End(request=ONE))
    assert loop.take_trace() == []


def test_a_preempted_request_starts_again_once_its_pages_are_free() -> None:
    loop = Loop()
    loop.place(LEFT)
    loop.take_trace()
    loop.order(events.PreemptRequest(request=ONE))
    loop.place(RIGHT, known=103)
    assert loop.take_trace() == [
        "fence 2",
        "left: Free",
        "fence 3",
        "right: start at 0 ()",
    ]


def test_a_lost_source_takes_the_move_with_it() -> None:
    loop = moving()
    loop.take_trace()
    loop.lost(LEFT)
    assert loop.take_trace() == ["MoveAborted", "fence 3", "right: Free"]
    loop.place(RIGHT)
    assert loop.take_trace() == ["fence 4", "right: start at 0 ()"]


def test_a_lost_destination_leaves_the_request_at_its_source() -> None:
    loop = moving()
    loop.computed(LEFT, 30)
    loop.take_trace()
    loop.lost(RIGHT)
    assert loop.take_trace() == ["left: ResumeRow", "MoveAborted"]


def test_the_loss_of_the_old_device_after_a_commit_changes_nothing() -> None:
    loop = moving()
    loop.computed(LEFT, 30)
    loop.stopped(LEFT, 31, 4, 5)
    loop.take_trace()
    loop.lost(LEFT)
    assert loop.take_trace() == []
    assert loop.controller.owners[ONE].home == RIGHT


def test_a_move_waits_until_its_source_has_started() -> None:
    # Found by simulation: a source that is told to resume before its start comes late
    # forgets that, and begins when `Begin` comes later still.
    controller = Controller()
    for device in (LEFT, RIGHT):
        controller.step(events.AddDevice(device=device))
    controller.step(events.StartRequest(request=ONE, device=LEFT, known=20))
    order = begin_move(MoveId(5), target=RIGHT, pages=2, known=20)
    assert controller.step(order) == []
    (sent,) = controller.step(messages.Started(request=ONE, copy_id=CopyId(1)))
    assert isinstance(sent, effects.Send)
    assert isinstance(sent.message, messages.Reserve)


def test_a_commit_is_reported_before_the_loss_of_its_new_device() -> None:
    controller = Controller()
    for device in (LEFT, RIGHT):
        controller.step(events.AddDevice(device=device))
    controller.step(events.StartRequest(request=ONE, device=LEFT, known=20))
    controller.step(begin_move(MoveId(5), target=RIGHT, pages=2, known=20))
    one, two = CopyId(1), CopyId(2)
    controller.step(messages.Started(request=ONE, copy_id=one))
    controller.step(messages.Reserved(request=ONE, copy_id=two, cached=0))
    controller.step(messages.Ready(request=ONE, copy_id=two))
    stopped = messages.Stopped(
        request=ONE, copy_id=one, to_copy_id=two, since=20, tail=(8,)
    )
    committed = controller.step(stopped)
    assert [type(effect).__name__ for effect in committed] == [
        "Deliver",
        "Fence",
        "Send",
        "Send",
    ]
    assert controller.step(stopped) == []  # doubled
    lost = controller.step(events.LoseDevice(device=RIGHT))
    assert lost == [
        effects.Report(event=MoveCommitted(move=MoveId(5))),
        effects.Fence(request=ONE, copy_id=CopyId(3)),
    ]


def test_a_second_move_waits_for_the_first_and_a_third_replaces_it() -> None:
    loop = moving()
    loop.move(LEFT, move=6)
    assert "MoveAborted" not in loop.trace
    loop.move(THIRD, move=7)
    assert loop.trace.count("MoveAborted") == 1
    loop.take_trace()
    loop.order(events.AbortMove(request=ONE, move=MoveId(5)))
    assert loop.take_trace() == [
        "right: Free",
        "MoveAborted",
        "third: take 8",
        "left: WatchRow",
    ]


def test_a_waiting_move_ends_with_its_target_although_that_comes_back() -> None:
    # Found by simulation: it was carried out after all, long after everybody else
    # had forgotten it, and newer orders were refused for its sake without end.
    loop = moving()
    loop.move(THIRD, move=6)
    loop.take_trace()
    loop.lost(THIRD)
    assert loop.take_trace() == ["MoveAborted"]
    loop.order(events.AddDevice(device=THIRD))
    loop.order(events.AbortMove(request=ONE, move=MoveId(5)))
    assert loop.take_trace() == ["right: Free", "MoveAborted"]


def test_a_move_ordered_to_a_lost_device_is_over_although_that_comes_back() -> None:
    # Found by simulation: the books' order came after the loss of its target, which
    # they had not heard of, and waited for the end of another move.
    loop = moving()
    loop.lost(THIRD)
    loop.take_trace()
    loop.move(THIRD, move=6)
    assert loop.take_trace() == ["MoveAborted"]
    loop.order(events.AddDevice(device=THIRD))
    loop.order(events.AbortMove(request=ONE, move=MoveId(5)))
    assert loop.take_trace() == ["right: Free", "MoveAborted"]


def test_a_waiting_move_can_be_called_off() -> None:
    loop = moving()
    loop.move(THIRD, move=6)
    loop.take_trace()
    loop.order(events.AbortMove(request=ONE, move=MoveId(6)))
    loop.order(events.AbortMove(request=ONE, move=MoveId(99)))
    assert loop.take_trace() == ["MoveAborted"]


def test_a_move_to_where_the_request_is_already_is_over_at_once() -> None:
    loop = Loop()
    loop.place(LEFT)
    loop.move(LEFT)
    assert loop.trace[-1] == "MoveAborted"


def test_orders_for_a_device_that_was_lost_are_dropped() -> None:
    loop = Loop()
    loop.place(LEFT)
    loop.lost(RIGHT)
    loop.take_trace()
    loop.move(RIGHT)
    assert loop.take_trace() == ["MoveAborted"]
    loop.lost(LEFT)
    loop.take_trace()
    loop.place(LEFT)
    assert loop.take_trace() == []
    assert loop.controller.owners[ONE].home is None


def test_orders_that_cannot_be_are_refused() -> None:
    loop = Loop()
    loop.place(LEFT)
    with pytest.raises(ValueError, match="runs on 0"):
        loop.place(RIGHT)
    with pytest.raises(ValueError, match="never added"):
        loop.order(events.LoseDevice(device=DeviceGroupId(9)))
    with pytest.raises(ValueError, match="in the fleet already"):
        loop.order(events.AddDevice(device=LEFT))


def test_orders_for_unknown_requests_do_nothing() -> None:
    loop = Loop()
    loop.move(LEFT)
    assert loop.take_trace() == ["MoveAborted"]
    loop.order(events.End(request=ONE))
    loop.order(events.PreemptRequest(request=ONE))
    loop.order(events.AbortMove(request=ONE, move=MoveId(5)))
    assert loop.take_trace() == []


# After a predecessor.


def test_copies_are_numbered_by_strides_above_the_last_that_is_known() -> None:
    assert Controller().next_copy_id == 1
    assert Controller(stride=256).next_copy_id == 256
    later = Controller(last_copy_id=CopyId(517), stride=256)
    assert later.next_copy_id == 768
    later.step(events.AddDevice(device=LEFT))
    _, start = later.step(events.StartRequest(request=ONE, device=LEFT, known=4))
    assert isinstance(start, effects.Send)
    assert isinstance(start.message, messages.Start)
    assert (start.message.copy_id, start.message.horizon) == (768, 768)
    assert later.next_copy_id == 1024


def test_an_adopted_request_is_owned_by_the_copy_that_runs() -> None:
    controller = Controller(last_copy_id=CopyId(512), stride=256)
    for device in (LEFT, RIGHT):
        controller.step(events.AddDevice(device=device))
    adopted = events.AdoptRequest(request=ONE, device=LEFT, copy_id=CopyId(512))
    assert controller.step(adopted) == []
    _, released = controller.step(events.PreemptRequest(request=ONE))
    assert released == effects.Fence(request=ONE, copy_id=CopyId(768))
    assert controller.owners[ONE].closing == {512: LEFT}
    with pytest.raises(ValueError, match="has an owner already"):
        controller.step(adopted)


def test_an_adopted_request_can_be_moved_at_once() -> None:
    controller = Controller(last_copy_id=CopyId(512), stride=256)
    for device in (LEFT, RIGHT):
        controller.step(events.AddDevice(device=device))
    controller.step(events.AdoptRequest(request=ONE, device=LEFT, copy_id=CopyId(512)))
    order = begin_move(
        MoveId(1),
        request=ONE,
        target=RIGHT,
        mode=Mode.KV,
        pages=2,
        known=4,
        is_urgent=False,
    )
    (reserve,) = controller.step(order)
    assert isinstance(reserve, effects.Send) and reserve.to == RIGHT
    assert isinstance(reserve.message, messages.Reserve)
    assert reserve.message.copy_id == 768


def test_what_a_lost_device_has_not_answered_is_forgotten_with_it() -> None:
    controller = Controller()
    controller.step(events.AddDevice(device=LEFT))
    controller.step(events.StartRequest(request=ONE, device=LEFT, known=4))
    controller.step(events.LoseDevice(device=LEFT))
    started = messages.Started(request=ONE, copy_id=CopyId(1))
    assert controller.step(started) == []
    controller.step(events.AddDevice(device=LEFT))
    _, start = controller.step(events.StartRequest(request=ONE, device=LEFT, known=4))
    assert isinstance(start, effects.Send)
    assert isinstance(start.message, messages.Start)
    assert start.message.horizon == start.message.copy_id

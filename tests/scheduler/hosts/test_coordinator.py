"""The controller's part, told by two hosts and a front end.

What comes again, late, or twice here, a schedule of the simulation has found to matter.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.coordinator import Coordinator, HangUp, Send
from mell_jax.scheduler.hosts.outbox import Effect
from mell_jax.scheduler.hosts.roll import PeerId
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, Epoch, RequestId
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from tests.scheduler.hosts.speech import FRONT, ONE, OTHER_FRONT, THEIRS, TWO, ask

A, B, C, D = PeerId(1), PeerId(2), PeerId(3), PeerId(4)
"""The links of two hosts and a front end, and another one."""
FIRST, SECOND = Epoch(1), Epoch(2)
LEFT, RIGHT = DeviceGroupId(1), DeviceGroupId(2)
COPY, NEXT = CopyId(256), CopyId(512)


def new(
    *,
    generation: int = 0,
    least_hosts: int = 1,
    capacity_pages: int = 10,
    pages_ahead: int = 8,
) -> Coordinator:
    """Instances of ten pages, best fit, given up after three silent beats."""
    return Coordinator(
        models={ONLY_MODEL: ModelSpec(capacity_pages=capacity_pages)},
        policy="best_fit",
        policies=PolicyConfig(),
        patience=3,
        generation=generation,
        least_hosts=least_hosts,
        pages_ahead=pages_ahead,
    )


class Talk:
    """A coordinator, what it is told, and what it says to whom."""

    def __init__(self, coordinator: Coordinator | None = None) -> None:
        self.coordinator = coordinator or new()
        self.now_s = 0.0

    def hear(self, peer: PeerId, message: Any) -> list[tuple[PeerId, Any]]:
        return _said(self.coordinator.heard(peer, message, now_s=self.now_s))

    def beat(self) -> list[tuple[PeerId, Any]]:
        return _said(self.coordinator.beat(now_s=self.now_s))

    def cut(self, peer: PeerId) -> list[tuple[PeerId, Any]]:
        return _said(self.coordinator.cut(peer, now_s=self.now_s))


def _said(effects: Sequence[Effect]) -> list[tuple[PeerId, Any]]:
    return [
        (effect.to, effect.message) if isinstance(effect, Send) else (effect.peer, None)
        for effect in effects
        if not (isinstance(effect, Send) and isinstance(effect.message, words.Beat))
    ]


def host_join(name: str) -> words.Join:
    return words.Join(name=name, num_groups=1)


def hosts(*entries: tuple[Epoch, str, DeviceGroupId]) -> words.Hosts:
    return words.Hosts(
        hosts=tuple(
            words.Host(epoch=epoch, name=name, devices=(device,))
            for epoch, name, device in entries
        )
    )


ONE_HOST = hosts((FIRST, "a", LEFT))
SECOND_HOST = words.Host(epoch=SECOND, name="b", devices=(RIGHT,))
BOTH = hosts((FIRST, "a", LEFT), (SECOND, "b", RIGHT))


def fleet() -> Talk:
    """Two hosts with a group each, which the front end has reached."""
    talk = Talk()
    talk.hear(C, words.Enter(front=FRONT))
    talk.hear(A, host_join("a"))
    talk.hear(B, host_join("b"))
    talk.beat()
    talk.beat()
    assert not talk.coordinator.is_adopting
    talk.hear(C, words.Reached(epoch=FIRST))
    talk.hear(C, words.Reached(epoch=SECOND))
    return talk


def running(*requests: RequestId, pages: int = 5) -> Talk:
    """These requests run on the first host's group."""
    talk = fleet()
    for request in requests:
        talk.hear(C, ask(request, pages=pages))
    talk.hear(A, words.GroupOpened(device=LEFT, model=ONLY_MODEL, took_s=1.0))
    for number, request in enumerate(requests, 1):
        copy_id = CopyId(256 * number)
        talk.hear(A, told(messages.Started(request=request, copy_id=copy_id)))
    return talk


def told(message: messages.ToController, *, device: DeviceGroupId = LEFT) -> words.Told:
    return words.Told(device=device, message=message)


def start(
    copy_id: CopyId, *, request: RequestId = ONE, horizon: CopyId | None = None
) -> messages.Start:
    return messages.Start(
        request=request,
        copy_id=copy_id,
        known=4,
        horizon=copy_id if horizon is None else horizon,
    )


def order(message: words.Ordered, *, device: DeviceGroupId = LEFT) -> words.Order:
    return words.Order(device=device, message=message)


# Who comes.


def test_hosts_are_admitted_when_all_have_reported() -> None:
    talk = Talk(new(generation=2, least_hosts=2))
    assert talk.hear(C, words.Enter(front=FRONT)) == []
    assert talk.hear(A, host_join("a")) == []
    assert talk.beat() == talk.beat() == talk.beat() == []
    first, second = Epoch(2 * 2**20 + 1), Epoch(2 * 2**20 + 2)
    all_hosts = hosts((first, "a", LEFT), (second, "b", RIGHT))
    assert talk.hear(B, host_join("b")) == [
        (A, words.Admit(epoch=first, devices=(LEFT,))),
        (B, words.Admit(epoch=second, devices=(RIGHT,))),
        (C, all_hosts),
        (A, all_hosts),
        (B, all_hosts),
    ]


def test_a_host_that_comes_later_is_told_to_everybody() -> None:
    talk = Talk()
    talk.hear(C, words.Enter(front=FRONT))
    talk.hear(A, host_join("a"))
    talk.beat()
    talk.beat()
    assert talk.hear(B, host_join("b")) == [
        (B, words.Admit(epoch=SECOND, devices=(RIGHT,))),
        (B, BOTH),
        (C, words.HostsChanged(came=(SECOND_HOST,))),
        (A, words.HostsChanged(came=(SECOND_HOST,))),
    ]


def test_nothing_is_placed_on_a_host_that_a_front_end_has_not_reached() -> None:
    talk = Talk()
    talk.hear(C, words.Enter(front=FRONT))
    talk.hear(A, host_join("a"))
    talk.beat()
    talk.beat()
    assert talk.hear(C, ask()) == []
    said = talk.hear(C, words.Reached(epoch=FIRST))
    assert [type(message) for _, message in said] == [words.OpenGroup, words.Relayed]
    assert talk.hear(C, words.Reached(epoch=Epoch(99))) == []


def test_a_request_starts_by_way_of_its_front_end() -> None:
    talk = fleet()
    assert talk.hear(C, ask()) == [
        (A, words.OpenGroup(device=LEFT, model=ONLY_MODEL, horizon=COPY)),
        (
            C,
            words.Relayed(
                epoch=FIRST, device=LEFT, since=COPY, pages=2, message=start(COPY)
            ),
        ),
    ]


def test_a_request_that_no_instance_can_hold_is_refused() -> None:
    talk = fleet()
    ((to, refused),) = talk.hear(C, ask(pages=11))
    assert to == C
    assert isinstance(refused, words.Refused) and refused.request == ONE
    assert talk.coordinator.requests == {}


def test_what_is_said_before_anybody_says_who_he_is_is_not_heard() -> None:
    talk = fleet()
    assert talk.hear(PeerId(9), ask()) == []
    assert talk.coordinator.requests == {}


# Pages.


def test_a_row_gets_the_pages_that_it_asks_for() -> None:
    talk = running(ONE)
    want = words.Want(request=ONE, copy_id=COPY, pages=6)
    grant = words.Grant(request=ONE, copy_id=COPY, pages=6)
    assert talk.hear(A, want) == [(A, grant)]
    assert talk.hear(A, want) == [(A, grant)]  # as often as it asks
    older = words.Want(request=ONE, copy_id=CopyId(128), pages=7)
    assert talk.hear(A, older) == []
    assert talk.hear(A, words.Want(request=TWO, copy_id=COPY, pages=7)) == []


def test_a_row_that_has_no_room_is_moved_by_way_of_its_front_end() -> None:
    talk = running(ONE, TWO)
    want = words.Want(request=ONE, copy_id=COPY, pages=6)
    assert talk.hear(A, want) == [
        (B, words.OpenGroup(device=RIGHT, model=ONLY_MODEL, horizon=CopyId(768)))
    ]
    opened = words.GroupOpened(device=RIGHT, model=ONLY_MODEL, took_s=1.0)
    ((to, relayed),) = talk.hear(B, opened)
    assert to == C
    moved, reserve = relayed.message.request, relayed.message
    assert isinstance(reserve, messages.Reserve)
    assert (relayed.epoch, relayed.device, reserve.copy_id) == (SECOND, RIGHT, 768)
    source = {ONE: COPY, TWO: NEXT}[moved]
    reserved = messages.Reserved(request=moved, copy_id=CopyId(768), cached=0)
    ((to, begin),) = talk.hear(B, told(reserved, device=RIGHT))
    assert to == A and isinstance(begin.message, messages.Begin)
    stopped = messages.Stopped(
        request=moved, copy_id=source, to_copy_id=CopyId(768), since=4, tail=(50, 51)
    )
    assert talk.hear(A, told(stopped)) == []
    ready = messages.Ready(request=moved, copy_id=CopyId(768))
    said = talk.hear(B, told(ready, device=RIGHT))
    commit = messages.Commit(request=moved, copy_id=CopyId(768), since=4, tail=(50, 51))
    assert [(to, message.message) for to, message in said] == [
        (A, messages.Release(request=moved, copy_id=source, horizon=CopyId(1024))),
        (C, commit),
    ]


def test_a_move_between_hosts_that_have_lost_each_other_is_called_off() -> None:
    talk = running(ONE, TWO)
    talk.hear(A, words.Want(request=ONE, copy_id=COPY, pages=6))
    talk.hear(B, words.GroupOpened(device=RIGHT, model=ONLY_MODEL, took_s=1.0))
    assert len(talk.coordinator.machine.ledger.moves) == 1
    ((to, released),) = talk.hear(A, words.PeerCut(epoch=SECOND))
    assert to == B and isinstance(released.message, messages.Release)
    assert talk.hear(A, words.PeerCut(epoch=SECOND)) == []


# Ends.


def test_a_request_that_is_over_is_released_where_it_runs() -> None:
    talk = running(ONE)
    assert talk.hear(C, words.Over(request=ONE)) == [
        (A, order(messages.Release(request=ONE, copy_id=COPY, horizon=NEXT))),
        (C, words.Disowned(request=ONE)),
    ]
    assert talk.coordinator.requests == {}
    talk.hear(A, told(messages.Released(request=ONE, copy_id=COPY)))
    assert talk.coordinator.controller.owners == {}
    assert talk.hear(C, words.Over(request=ONE)) == []


def test_a_copy_that_a_host_has_let_go_starts_again() -> None:
    talk = running(ONE)
    said = talk.hear(A, told(messages.Released(request=ONE, copy_id=COPY)))
    assert _kinds(said) == [(A, "Release"), (C, "Disowned"), (C, "Start")]


def test_a_broken_stream_starts_again_once_its_copy_is_released() -> None:
    talk = running(ONE)
    assert talk.hear(C, words.Broken(request=ONE, copy_id=CopyId(128))) == []
    said = talk.hear(C, words.Broken(request=ONE, copy_id=COPY))
    assert _kinds(said) == [(A, "Release"), (C, "Disowned")]
    said = talk.hear(A, told(messages.Released(request=ONE, copy_id=COPY)))
    assert _kinds(said) == [(C, "Start")]


def test_a_report_of_a_device_that_is_not_the_hosts_is_not_heard() -> None:
    talk = running(ONE)
    released = messages.Released(request=ONE, copy_id=COPY)
    assert talk.hear(B, told(released, device=LEFT)) == []
    failed = words.GroupFailed(device=LEFT, reason="broken")
    assert talk.hear(B, failed) == []


# Who goes.


def _kinds(said: list[tuple[PeerId, Any]]) -> list[tuple[PeerId, str]]:
    names = []
    for to, message in said:
        inner = getattr(message, "message", message)
        names.append((to, type(inner).__name__))
    return names


def test_requests_of_a_lost_host_start_again_after_the_fence() -> None:
    talk = running(ONE)
    said = talk.cut(A)
    gone = words.HostsChanged(gone=(FIRST,))
    assert said[:2] == [(C, gone), (B, gone)]
    assert _kinds(said[2:]) == [(C, "Disowned"), (B, "OpenGroup"), (C, "Start")]


def test_a_silent_host_is_given_up_and_hung_up_on() -> None:
    talk = running(ONE)
    for _ in range(3):
        talk.hear(B, words.Beat())
        talk.hear(C, words.Beat())
        talk.beat()
    talk.hear(B, words.Beat())
    talk.hear(C, words.Beat())
    said = talk.beat()
    assert said[0] == (A, None)
    assert list(talk.coordinator.roll.hosts) == [SECOND]
    assert talk.hear(A, words.Want(request=ONE, copy_id=COPY, pages=9)) == []


def test_a_host_that_no_front_end_can_reach_is_fenced_until_the_next_beat() -> None:
    talk = running(ONE)
    said = talk.hear(C, words.Unreachable(epoch=FIRST))
    assert said[0] == (A, words.Fenced(reason="most front ends have no link to it"))
    assert talk.hear(C, words.Unreachable(epoch=FIRST)) == []
    assert talk.hear(A, host_join("a")) == []
    admitted = words.Admit(epoch=Epoch(3), devices=(DeviceGroupId(3),))
    assert talk.beat()[0] == (A, admitted)


def of_two_fronts() -> Talk:
    """Two front ends; a request of each runs on the first host."""
    talk = running(ONE)
    talk.hear(D, words.Enter(front=OTHER_FRONT, hosts=(FIRST, SECOND)))
    talk.hear(D, ask(THEIRS, pages=5))
    talk.hear(A, told(messages.Started(request=THEIRS, copy_id=NEXT)))
    return talk


def test_a_front_end_without_a_link_to_a_host_takes_its_own_requests_away() -> None:
    talk = of_two_fronts()
    said = _kinds(talk.hear(D, words.Unreachable(epoch=FIRST)))
    assert said == [(A, "Release"), (D, "Disowned"), (B, "OpenGroup")]
    assert FIRST in talk.coordinator.roll.hosts  # the other's request runs there
    released = told(messages.Released(request=THEIRS, copy_id=NEXT))
    ((to, again),) = talk.hear(A, released)
    assert (to, again.epoch) == (D, SECOND)
    assert talk.coordinator.controller.owners[ONE].home == LEFT


def test_what_front_ends_cannot_reach_is_no_place_for_what_they_ask() -> None:
    talk = of_two_fronts()
    talk.hear(D, words.Over(request=THEIRS))
    talk.hear(A, told(messages.Released(request=THEIRS, copy_id=NEXT)))
    talk.hear(D, words.Unreachable(epoch=FIRST))
    assert talk.coordinator.machine.ledger.is_idle(RIGHT)
    said = talk.hear(D, ask(THEIRS, pages=2))  # the first host has room for it
    assert _kinds(said) == [(B, "OpenGroup"), (D, "Start")]
    assert said[1][1].epoch == SECOND


def test_who_may_not_go_where_room_is_waits_alone_until_there_is_a_link() -> None:
    talk = of_two_fronts()
    talk.cut(B)
    talk.hear(D, words.Unreachable(epoch=FIRST))
    talk.hear(A, told(messages.Released(request=THEIRS, copy_id=NEXT)))
    assert talk.coordinator.machine.waiting == 1
    assert _kinds(talk.hear(C, ask(TWO, pages=2))) == [(C, "Start")]
    talk.hear(D, words.Reached(epoch=FIRST))
    talk.hear(C, words.Over(request=TWO))
    said = _said(talk.coordinator.tick(now_s=1.0))
    assert _kinds(said) == [(D, "Start")]
    assert talk.coordinator.machine.waiting == 0
    talk.coordinator.machine.ledger.check()


def test_a_move_to_where_its_front_end_has_no_link_is_called_off() -> None:
    talk = of_two_fronts()
    talk.hear(A, words.Leave())
    opened = words.GroupOpened(device=RIGHT, model=ONLY_MODEL, took_s=1.0)
    said = talk.hear(B, opened)
    assert _kinds(said) == [(C, "Reserve"), (D, "Reserve")]
    (copy_id,) = (m.message.copy_id for to, m in said if to == D)
    said = talk.hear(D, words.Unreachable(epoch=SECOND))
    assert said == [
        (
            B,
            order(
                messages.Release(request=THEIRS, copy_id=copy_id, horizon=CopyId(768)),
                device=RIGHT,
            ),
        )
    ]
    assert talk.coordinator.controller.owners[THEIRS].home == LEFT


def test_a_host_that_most_front_ends_cannot_reach_is_fenced() -> None:
    talk = of_two_fronts()
    talk.hear(D, words.Unreachable(epoch=FIRST))
    said = talk.hear(C, words.Unreachable(epoch=FIRST))
    assert said[0] == (A, words.Fenced(reason="most front ends have no link to it"))
    assert FIRST not in talk.coordinator.roll.hosts


def test_the_only_front_end_that_reached_a_host_takes_it_along() -> None:
    talk = of_two_fronts()
    talk.hear(D, words.Unreachable(epoch=FIRST))
    said = talk.cut(C)
    assert (A, words.Fenced(reason="most front ends have no link to it")) in said


def test_a_new_host_serves_though_one_of_two_front_ends_cannot_reach_it() -> None:
    talk = of_two_fronts()
    third = PeerId(5)
    talk.hear(third, host_join("c"))
    talk.hear(C, words.Reached(epoch=Epoch(3)))
    assert not talk.coordinator.machine.ledger.is_idle(DeviceGroupId(3))
    talk.hear(D, words.Unreachable(epoch=Epoch(3)))
    assert talk.coordinator.machine.ledger.is_idle(DeviceGroupId(3))


def test_a_host_that_was_put_off_and_has_left_is_not_admitted() -> None:
    talk = running(ONE)
    talk.hear(C, words.Unreachable(epoch=FIRST))
    talk.hear(A, host_join("a"))
    talk.cut(A)
    assert talk.beat() == []


def test_a_lost_front_ends_requests_end() -> None:
    talk = running(ONE)
    said = talk.cut(C)
    assert _kinds(said) == [(A, "Release")]
    assert talk.coordinator.requests == {}
    assert talk.coordinator.roll.fronts == {}


def test_a_failed_group_loses_its_requests_and_no_others() -> None:
    talk = running(ONE)
    failed = words.GroupFailed(device=LEFT, reason="broken")
    said = talk.hear(A, failed)
    assert _kinds(said) == [(C, "Disowned"), (B, "OpenGroup"), (C, "Start")]
    assert talk.hear(A, failed) == []
    talk.cut(A)
    assert list(talk.coordinator.roll.hosts) == [SECOND]


def test_a_group_that_fails_before_its_host_is_reached_never_serves() -> None:
    talk = fleet()
    talk.hear(D, words.Join(name="c", num_groups=2))
    talk.hear(D, words.GroupFailed(device=DeviceGroupId(3), reason="broken"))
    talk.hear(C, words.Reached(epoch=Epoch(3)))
    ledger = talk.coordinator.machine.ledger
    assert ledger.is_idle(DeviceGroupId(4))
    assert not ledger.is_idle(DeviceGroupId(3))


def test_a_host_that_leaves_gets_nothing_new_and_its_requests_move() -> None:
    talk = running(ONE)
    said = talk.hear(A, words.Leave())
    assert _kinds(said) == [(B, "OpenGroup")]
    opened = words.GroupOpened(device=RIGHT, model=ONLY_MODEL, took_s=1.0)
    assert _kinds(talk.hear(B, opened)) == [(C, "Reserve")]
    assert talk.coordinator.roll.hosts[FIRST].is_leaving
    talk.cut(A)  # in the middle of it
    reserved = CopyId(512)
    released = messages.Released(request=ONE, copy_id=reserved)
    assert _kinds(talk.hear(B, told(released, device=RIGHT))) == [(C, "Start")]
    assert list(talk.coordinator.machine.ledger.instances) == [RIGHT]


def test_a_host_that_is_lost_as_its_last_move_away_is_settled_is_lost_once() -> None:
    talk = running(ONE)
    talk.hear(A, words.Leave())
    opened = words.GroupOpened(device=RIGHT, model=ONLY_MODEL, took_s=1.0)
    talk.hear(B, opened)
    reserved = messages.Reserved(request=ONE, copy_id=NEXT, cached=0)
    talk.hear(B, told(reserved, device=RIGHT))
    stopped = messages.Stopped(
        request=ONE, copy_id=COPY, to_copy_id=NEXT, since=4, tail=()
    )
    talk.hear(A, told(stopped))
    ready = messages.Ready(request=ONE, copy_id=NEXT)
    assert (C, "Commit") in _kinds(talk.hear(B, told(ready, device=RIGHT)))
    talk.cut(A)  # before its copy is released
    assert list(talk.coordinator.machine.ledger.instances) == [RIGHT]
    assert talk.coordinator.machine.ledger.moves == {}
    assert talk.coordinator.controller.owners[ONE].home == RIGHT


def test_a_host_that_has_left_and_is_lost_leaves_no_owner_behind() -> None:
    talk = running(ONE)
    talk.hear(C, words.Over(request=ONE))
    talk.hear(A, words.Leave())
    assert LEFT not in talk.coordinator.machine.ledger.instances
    talk.cut(A)
    assert talk.coordinator.controller.owners == {}


# Coming again.


def test_a_front_end_that_comes_again_begins_its_requests_again() -> None:
    talk = running(ONE)
    stream = words.StreamReport(
        ask=ask(known=6, pages=3), copy_id=COPY, epoch=FIRST, device=LEFT
    )
    entered = words.Enter(front=FRONT, streams=(stream,), hosts=(FIRST, SECOND))
    said = talk.hear(D, entered)
    assert (C, None) in said  # its older link is hung up
    assert (D, BOTH) in said
    assert (D, words.Disowned(request=ONE)) in said
    assert "Start" not in [name for _, name in _kinds(said)]  # before it is released
    released = told(messages.Released(request=ONE, copy_id=COPY))
    assert _kinds(talk.hear(A, released)) == [(D, "Start")]


def test_a_front_end_may_ask_again_for_what_the_controller_still_knows() -> None:
    talk = running(ONE)
    assert _kinds(talk.hear(C, ask())) == [(A, "Release"), (C, "Disowned")]
    released = told(messages.Released(request=ONE, copy_id=COPY))
    assert _kinds(talk.hear(A, released)) == [(C, "Start")]


def test_a_request_that_is_over_before_it_could_come_again_does_not_come() -> None:
    talk = running(ONE)
    talk.hear(C, ask())
    talk.hear(C, words.Over(request=ONE))
    talk.hear(A, told(messages.Released(request=ONE, copy_id=COPY)))
    assert talk.coordinator.requests == {}
    assert talk.coordinator.controller.owners == {}


def test_a_host_that_comes_again_before_its_end_is_heard_begins_empty() -> None:
    talk = running(ONE)
    again = words.Join(name="a", num_groups=1, epoch=FIRST, admitted=(LEFT,))
    said = talk.hear(D, again)
    assert (A, None) in said
    admitted = words.Admit(epoch=Epoch(3), devices=(DeviceGroupId(3),))
    assert (D, admitted) in said
    assert list(talk.coordinator.roll.hosts) == [SECOND, Epoch(3)]


def test_a_host_that_was_started_again_takes_the_place_of_its_older_self() -> None:
    talk = running(ONE)
    said = talk.hear(D, host_join("a"))  # it knows of no epoch
    assert (A, None) in said  # or requests would be placed there until it is silent
    assert list(talk.coordinator.roll.hosts) == [SECOND, Epoch(3)]
    assert _kinds(said)[-1] == (C, "Start")


# Adoption.


def known_host(*copies: words.HeldCopy, is_leaving: bool = False) -> words.Join:
    group = words.GroupReport(device=LEFT, model=ONLY_MODEL, since=COPY)
    return words.Join(
        name="a",
        num_groups=1,
        epoch=FIRST,
        admitted=(LEFT,),
        groups=(group,),
        copies=copies,
        seen=words.Seen(copy_id=CopyId(1024), device=5),
        is_leaving=is_leaving,
    )


def copy_of(request: RequestId, copy_id: CopyId, *, pages: int) -> words.HeldCopy:
    return words.HeldCopy(
        request=request, copy_id=copy_id, device=LEFT, pages=pages, is_whole=True
    )


def stream_of(request: RequestId, copy_id: CopyId) -> words.StreamReport:
    return words.StreamReport(
        ask=ask(request, pages=2), copy_id=copy_id, epoch=FIRST, device=LEFT
    )


def adopting(*streams: words.StreamReport, join: words.Join) -> Talk:
    talk = Talk(new(generation=1))
    talk.hear(C, words.Enter(front=FRONT, streams=streams, hosts=(FIRST,)))
    talk.hear(A, join)
    talk.beat()
    return talk


def test_a_new_controller_goes_on_with_what_runs() -> None:
    talk = adopting(stream_of(ONE, COPY), join=known_host(copy_of(ONE, COPY, pages=4)))
    horizon = CopyId(1024 + 2 * 2**24 + 256)  # of generation 1
    said = talk.beat()
    retain = words.Retain(copies=frozenset([COPY]), horizon=horizon)
    assert said == [(A, retain), (C, ONE_HOST), (A, ONE_HOST)]
    assert talk.coordinator.machine.ledger.requests[ONE].pages == 4
    grant = words.Grant(request=ONE, copy_id=COPY, pages=5)
    assert talk.hear(A, words.Want(request=ONE, copy_id=COPY, pages=5)) == [(A, grant)]


def test_a_new_controller_starts_again_what_has_no_copy() -> None:
    talk = adopting(stream_of(ONE, COPY), join=known_host())
    said = talk.beat()
    assert _kinds(said)[-2:] == [(C, "Disowned"), (C, "Start")]
    start_again = said[-1][1]
    assert start_again.message.copy_id == 1024 + 2 * 2**24 + 256
    assert start_again.since == COPY  # the group serves as it did


def test_what_does_not_fit_where_it_runs_is_started_again() -> None:
    copies = (copy_of(ONE, COPY, pages=6), copy_of(TWO, NEXT, pages=6))
    streams = (stream_of(ONE, COPY), stream_of(TWO, NEXT))
    talk = adopting(*streams, join=known_host(*copies))
    said = talk.beat()
    assert (C, words.Disowned(request=TWO)) in said
    assert (C, words.Disowned(request=ONE)) not in said
    release = messages.Release(
        request=TWO, copy_id=NEXT, horizon=CopyId(1024 + 2 * 2**24 + 256)
    )
    assert (A, order(release)) in said
    assert talk.coordinator.machine.waiting == 1


def test_a_host_that_is_leaving_is_adopted_to_be_emptied() -> None:
    talk = adopting(
        stream_of(ONE, COPY),
        join=known_host(copy_of(ONE, COPY, pages=4), is_leaving=True),
    )
    talk.hear(B, host_join("b"))
    talk.beat()
    assert talk.coordinator.roll.hosts[FIRST].is_leaving
    talk.hear(C, words.Reached(epoch=Epoch(2**20 + 1)))
    said = _said(talk.coordinator.tick(now_s=1.0))
    assert _kinds(said) == [(B, "OpenGroup")]  # for what is to move away


def test_while_it_adopts_it_decides_nothing() -> None:
    talk = Talk()
    talk.hear(C, words.Enter(front=FRONT))
    assert talk.hear(C, ask()) == []
    assert talk.coordinator.tick(now_s=1.0) == []
    assert talk.coordinator.wake(now_s=1.0) == []
    assert talk.coordinator.is_adopting


def test_a_link_that_ends_during_the_adoption_is_waited_for_no_more() -> None:
    talk = Talk()
    talk.hear(A, known_host())
    talk.hear(D, words.Enter(front=FRONT, hosts=(FIRST, SECOND)))
    talk.beat()
    talk.beat()
    assert talk.coordinator.is_adopting  # for the second host
    talk.cut(D)
    assert not talk.coordinator.is_adopting


def test_links_that_replace_others_are_hung_up_during_the_adoption() -> None:
    coordinator = new()
    coordinator.heard(A, host_join("a"), now_s=0.0)
    assert coordinator.heard(B, host_join("a"), now_s=0.0) == [HangUp(peer=A)]


def test_time_does_not_go_back() -> None:
    talk = fleet()
    talk.now_s = 5.0
    talk.beat()
    talk.now_s = 3.0
    talk.beat()
    assert talk.coordinator.machine.ledger.now_s == 5.0


@pytest.mark.parametrize("patience", [0, -1])
def test_a_controller_without_patience_is_refused(patience: int) -> None:
    with pytest.raises(ValueError, match="patience"):
        Coordinator(
            models={ONLY_MODEL: ModelSpec(capacity_pages=10)},
            policy="best_fit",
            policies=PolicyConfig(),
            patience=patience,
        )

"""What an operator wants is done, or refused with the reason; and it is remembered."""

from dataclasses import replace
from typing import Any

import pytest

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.need import need_of
from mell_jax.scheduler.hosts.wishes import (
    AsideDone,
    AsideWish,
    MoveDone,
    MoveWish,
    PolicyDone,
    PolicyWish,
    WishAnswer,
    WishFault,
    WishRefused,
)
from mell_jax.scheduler.ids import DeviceGroupId, Epoch, RequestId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from tests.scheduler.hosts.test_coordinator import (
    COPY,
    FIRST,
    FRONT,
    LEFT,
    ONE,
    RIGHT,
    SECOND,
    TWO,
    A,
    B,
    C,
    D,
    Talk,
    ask,
    fleet,
    known_host,
    running,
)

THREE = RequestId(ONE + 7)
DRAIN_LEFT = AsideWish(ticket=7, device=LEFT, is_aside=True)
DRAIN_RIGHT = AsideWish(ticket=8, device=RIGHT, is_aside=True)
BEST_FIT = PolicyWish(ticket=5, policy="best_fit", look_s=None, headroom=None)


def answers(talk: Talk, wish: Any) -> list[WishAnswer]:
    kinds = (MoveDone, AsideDone, PolicyDone, WishRefused)
    said = talk.hear(C, wish)
    assert all(to == C for to, message in said if isinstance(message, kinds))
    return [message for _, message in said if isinstance(message, kinds)]


def answer(talk: Talk, wish: Any) -> WishAnswer:
    (one,) = answers(talk, wish)
    return one


def both_serve(*, pages: int) -> Talk:
    """A request of so many pages runs on each host."""
    talk = running(ONE, TWO, pages=pages)
    talk.hear(B, words.GroupOpened(device=RIGHT, model=ONLY_MODEL, took_s=1.0))
    return talk


# Moves.


def test_a_request_goes_where_there_is_room() -> None:
    talk = both_serve(pages=6)
    talk.hear(C, ask(THREE, pages=2))  # it fits best beside either
    wish = MoveWish(ticket=3, request=THREE, device=LEFT)
    if talk.coordinator.machine.ledger.requests[THREE].device == LEFT:
        wish = replace(wish, device=RIGHT)
    source = LEFT if wish.device == RIGHT else RIGHT
    there = answer(talk, replace(wish, device=source))
    assert there == MoveDone(ticket=3, source=source, is_moving=False)
    assert answer(talk, wish) == MoveDone(ticket=3, source=source, is_moving=True)
    again = answer(talk, wish)
    assert isinstance(again, WishRefused)
    assert again.reason.startswith(f"request {THREE} is on its way to device")


def test_a_request_stays_where_there_is_no_room_for_it() -> None:
    refused = answer(
        both_serve(pages=10), MoveWish(ticket=3, request=ONE, device=RIGHT)
    )
    assert refused == WishRefused(
        ticket=3,
        fault=WishFault.NOT_POSSIBLE,
        reason=f"request {ONE} has 10 pages and device {RIGHT} has room for 0",
    )


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (MoveWish(ticket=1, request=RequestId(5), device=LEFT), "no request 5; it"),
        (
            MoveWish(ticket=1, request=ONE, device=DeviceGroupId(9)),
            "there is no device 9; there is 1, 2",
        ),
        (
            AsideWish(ticket=1, device=DeviceGroupId(9), is_aside=True),
            "there is no device 9; there is 1, 2",
        ),
    ],
)
def test_what_is_not_there_is_told(wish: Any, reason: str) -> None:
    refused = answer(running(ONE), wish)
    assert isinstance(refused, WishRefused)
    assert refused.fault is WishFault.UNKNOWN
    assert reason in refused.reason


# Groups that are set aside.


def test_requests_move_away_from_a_group_that_is_set_aside() -> None:
    talk = running(ONE)
    said = talk.hear(C, DRAIN_LEFT)
    assert (A, words.SetAside(device=LEFT, is_aside=True)) in said
    assert (C, AsideDone(ticket=7, is_serving=True, is_open=True, requests_left=1)) in (
        said
    )
    ledger = talk.coordinator.machine.ledger
    assert ledger.requests[ONE].move is not None
    again = answer(talk, DRAIN_LEFT)
    assert again == AsideDone(ticket=7, is_serving=True, is_open=True, requests_left=1)
    assert answer(talk, replace(DRAIN_LEFT, is_aside=False)) == AsideDone(
        ticket=7, is_serving=True, is_open=True, requests_left=1
    )


def test_an_idle_group_that_is_set_aside_takes_nothing_until_it_is_used_again() -> None:
    talk = fleet()
    drained = AsideDone(ticket=7, is_serving=False, is_open=False, requests_left=0)
    assert answer(talk, DRAIN_LEFT) == drained
    last = answer(talk, DRAIN_RIGHT)
    assert isinstance(last, WishRefused)
    assert "is the last one that serves; stop its host, or" in last.reason
    talk.hear(C, ask(ONE, pages=10))
    talk.hear(C, ask(TWO, pages=10))
    ledger = talk.coordinator.machine.ledger
    assert [ledger.requests[each].device for each in (ONE, TWO)] == [RIGHT, None]
    talk.hear(C, replace(DRAIN_LEFT, is_aside=False))
    assert ledger.requests[TWO].device == LEFT


def test_a_group_stays_aside_when_its_host_is_fenced_and_joins_again() -> None:
    talk = fleet()
    talk.hear(C, DRAIN_LEFT)
    talk.hear(C, words.Unreachable(epoch=FIRST))  # by all front ends there are
    talk.hear(A, words.Join(name="a", num_groups=1, aside=(0,)))
    talk.beat()
    assert list(talk.coordinator.roll.hosts) == [SECOND, Epoch(3)]
    talk.hear(C, words.Reached(epoch=Epoch(3)))
    ledger = talk.coordinator.machine.ledger
    assert not ledger.is_idle(DeviceGroupId(3))
    talk.hear(C, AsideWish(ticket=1, device=DeviceGroupId(3), is_aside=False))
    assert ledger.is_idle(DeviceGroupId(3))


def test_the_next_controller_goes_on_to_empty_a_group() -> None:
    talk = Talk()
    enter = words.Enter(front=FRONT, hosts=(FIRST, SECOND))
    talk.hear(C, enter)
    talk.hear(A, replace(known_host(), aside=(0,)))
    talk.hear(
        B,
        words.Join(
            name="b",
            num_groups=1,
            epoch=SECOND,
            admitted=(RIGHT,),
            aside=(0,),
            groups=(words.GroupReport(device=RIGHT, model=None, since=COPY),),
        ),
    )
    talk.beat()
    talk.beat()
    assert not talk.coordinator.is_adopting
    ledger = talk.coordinator.machine.ledger
    assert ledger.instances == {} and ledger.idle_devices == 0
    talk.hear(C, replace(DRAIN_RIGHT, is_aside=False))
    assert ledger.is_idle(RIGHT)


def test_a_host_one_of_whose_groups_has_failed_is_adopted_with_their_numbers() -> None:
    talk = Talk()
    talk.hear(C, words.Enter(front=FRONT, hosts=(FIRST,)))
    works = words.GroupReport(device=RIGHT, model=None, since=COPY)
    talk.hear(
        A,
        words.Join(
            name="a",
            num_groups=1,
            epoch=FIRST,
            admitted=(LEFT, RIGHT),
            aside=(0,),
            groups=(works,),
        ),
    )
    talk.beat()
    talk.beat()
    (host,) = talk.coordinator.roll.hosts.values()
    assert (host.devices, host.admitted, host.aside) == (
        (RIGHT,),
        (LEFT, RIGHT),
        {RIGHT},
    )
    seat = talk.coordinator.roll.seat_of(RIGHT)
    assert seat is not None and seat.number == 1


def test_a_host_that_leaves_is_left_alone() -> None:
    talk = fleet()
    talk.hear(A, words.Leave())
    refused = answer(talk, replace(DRAIN_LEFT, is_aside=False))
    assert isinstance(refused, WishRefused)
    assert refused.reason == "host a is about to leave"


# Policies.


def test_another_policy_decides_from_then_on() -> None:
    talk = fleet()
    done = answer(talk, replace(BEST_FIT, policy="pinned_spread"))
    assert isinstance(done, PolicyDone) and done.before == "best_fit"
    assert talk.coordinator.policy == "pinned_spread"
    talk.hear(C, ask(ONE, pages=1))
    talk.hear(C, ask(TWO, pages=1))
    ledger = talk.coordinator.machine.ledger
    homes = {ledger.requests[each].device for each in (ONE, TWO)}
    assert homes == {LEFT, RIGHT}  # best fit would have put both on one


@pytest.mark.parametrize(
    ("wish", "field", "reason"),
    [
        (replace(BEST_FIT, policy="x"), "policy", "must be one of best_fit, "),
        (replace(BEST_FIT, look_s=1e300), "look_s", "must be from 0 to 1e+06, got"),
        (replace(BEST_FIT, look_s=-1.0), "look_s", "must be from 0 to 1e+06, got -1.0"),
        (replace(BEST_FIT, headroom=1.0), "headroom", "must be in [0, 1), got 1.0"),
    ],
)
def test_values_of_a_policy_are_checked(wish: Any, field: str, reason: str) -> None:
    talk = fleet()
    refused = answer(talk, wish)
    assert isinstance(refused, WishRefused)
    assert (refused.fault, refused.field) == (WishFault.INVALID, field)
    assert refused.reason.startswith(reason)
    assert talk.coordinator.policy == "best_fit"


def test_a_controller_that_adopts_puts_wishes_off() -> None:
    talk = Talk()
    talk.hear(C, words.Enter(front=FRONT))
    refused = answer(talk, BEST_FIT)
    assert isinstance(refused, WishRefused)
    assert refused.fault is WishFault.NOT_POSSIBLE
    assert refused.reason.startswith("the controller gathers what there is")


def test_a_host_wishes_nothing() -> None:
    talk = fleet()
    assert (A, None) in talk.hear(A, BEST_FIT)


# Where groups fail and links end.


def test_a_group_that_fails_while_a_controller_adopts_leaves_others_as_they_are() -> (
    None
):
    for aside, left in (((1,), {RIGHT}), ((0,), set())):
        talk = Talk()
        talk.hear(C, words.Enter(front=FRONT, hosts=(FIRST,)))
        talk.hear(A, idle_host(aside=aside))
        talk.hear(A, words.GroupFailed(device=LEFT, reason="gone"))
        talk.beat()
        talk.beat()
        (host,) = talk.coordinator.roll.hosts.values()
        assert (host.devices, host.aside) == ((RIGHT,), left)


def test_a_stranger_of_which_a_group_fails_meanwhile_has_one_less() -> None:
    talk = Talk()
    talk.hear(C, words.Enter(front=FRONT))  # which has no link to it
    talk.hear(A, idle_host(aside=(1,)))
    talk.hear(A, words.GroupFailed(device=LEFT, reason="gone"))
    talk.beat()
    talk.beat()
    (host,) = talk.coordinator.roll.hosts.values()
    assert host.aside == {*host.devices} and len(host.devices) == 1


def test_a_host_that_has_not_heard_of_a_drain_is_told_when_it_comes_back() -> None:
    talk = fleet()
    talk.hear(C, DRAIN_LEFT)
    talk.cut(A)  # it had not come there
    said = talk.hear(D, words.Join(name="a", num_groups=1, epoch=FIRST))
    third = DeviceGroupId(3)
    assert (D, words.SetAside(device=third, is_aside=True)) in said
    assert talk.coordinator.roll.hosts[Epoch(3)].aside == {third}


def test_a_process_that_is_new_has_nothing_set_aside() -> None:
    talk = fleet()
    talk.hear(C, DRAIN_LEFT)
    talk.cut(A)
    talk.hear(D, words.Join(name="a", num_groups=1))
    assert talk.coordinator.roll.hosts[Epoch(3)].aside == set()


def test_a_group_is_not_set_aside_before_its_host_serves() -> None:
    talk = Talk()
    talk.hear(C, words.Enter(front=FRONT))
    talk.hear(A, words.Join(name="a", num_groups=1))
    talk.beat()
    talk.beat()
    refused = answer(talk, DRAIN_LEFT)
    assert isinstance(refused, WishRefused)
    assert refused.reason == "host a is about to join; ask again in some seconds"
    talk.hear(C, words.Reached(epoch=FIRST))
    last = answer(talk, DRAIN_LEFT)
    assert isinstance(last, WishRefused) and "is the last one" in last.reason


def test_a_wish_of_a_front_end_that_has_not_entered_is_put_off() -> None:
    said = fleet().hear(D, BEST_FIT)
    ((to, refused),) = said
    assert to == D and isinstance(refused, WishRefused)
    assert refused.fault is WishFault.NOT_POSSIBLE


def test_a_host_without_a_group_in_use_is_idle() -> None:
    talk = fleet()
    talk.hear(C, DRAIN_LEFT)
    need = need_of(talk.coordinator)
    assert (need.idle_hosts, need.idle_groups) == (("a", "b"), 1)


def idle_host(*, aside: tuple[int, ...]) -> words.Join:
    """It was admitted with two groups, which serve nothing."""
    return words.Join(
        name="a",
        num_groups=2,
        epoch=FIRST,
        admitted=(LEFT, RIGHT),
        aside=aside,
        groups=tuple(
            words.GroupReport(device=device, model=None, since=COPY)
            for device in (LEFT, RIGHT)
        ),
    )

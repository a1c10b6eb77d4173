"""Commands that change something become wishes; what the controller says answers."""

from concurrent.futures import Future

import pytest

from mell_jax.engine.admin import (
    Answer,
    DeviceStatus,
    Drain,
    Migrate,
    Migration,
    PolicyChange,
    SetPolicy,
    Undrain,
)
from mell_jax.engine.fleet_view import GroupState
from mell_jax.engine.params import InvalidRequestError
from mell_jax.hosts.open_wishes import OpenWishes, Wanted
from mell_jax.scheduler.hosts.wishes import (
    AsideDone,
    AsideWish,
    MoveDone,
    MoveWish,
    PolicyDone,
    PolicyWish,
    Wish,
    WishAnswer,
    WishFault,
    WishRefused,
)
from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError

HERE, THERE = DeviceGroupId(4), DeviceGroupId(9)
READY = AsideDone(ticket=1, is_serving=True, is_open=True, requests_left=3)
OPENING = AsideDone(ticket=1, is_serving=True, is_open=False, requests_left=0)
EMPTY = AsideDone(ticket=1, is_serving=False, is_open=False, requests_left=0)


def begun(command: Wanted) -> tuple[OpenWishes, Wish, Future[Answer]]:
    wishes, found = OpenWishes(), Future[Answer]()
    return wishes, wishes.begin(command, found), found


@pytest.mark.parametrize(
    ("command", "wish", "told", "answer"),
    [
        (
            Migrate(request=70, device=THERE),
            MoveWish(ticket=1, request=RequestId(70), device=THERE),
            MoveDone(ticket=1, source=HERE, is_moving=True),
            Migration(source=HERE, target=THERE, is_moving=True),
        ),
        (
            Drain(device=HERE),
            AsideWish(ticket=1, device=HERE, is_aside=True),
            READY,
            DeviceStatus(state=GroupState.DRAINING, requests_left=3),
        ),
        (
            Drain(device=HERE),
            AsideWish(ticket=1, device=HERE, is_aside=True),
            EMPTY,
            DeviceStatus(state=GroupState.DRAINED, requests_left=0),
        ),
        (
            Undrain(device=HERE),
            AsideWish(ticket=1, device=HERE, is_aside=False),
            EMPTY,
            DeviceStatus(state=GroupState.PARKED, requests_left=0),
        ),
        (
            Undrain(device=HERE),
            AsideWish(ticket=1, device=HERE, is_aside=False),
            OPENING,
            DeviceStatus(state=GroupState.OPENING, requests_left=0),
        ),
        (
            Undrain(device=HERE),
            AsideWish(ticket=1, device=HERE, is_aside=False),
            READY,
            DeviceStatus(state=GroupState.SERVING, requests_left=3),
        ),
        (
            SetPolicy(policy="mell", headroom=0.1),
            PolicyWish(ticket=1, policy="mell", look_s=None, headroom=0.1),
            PolicyDone(ticket=1, before="consolidate", look_s=2.0),
            PolicyChange(policy="mell", before="consolidate", look_s=2.0),
        ),
    ],
)
def test_a_command_is_answered_by_what_the_controller_says(
    command: Wanted, wish: Wish, told: WishAnswer, answer: Answer
) -> None:
    wishes, begins, found = begun(command)
    assert begins == wish
    wishes.hear(told)
    assert found.result(0) == answer


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (WishFault.UNKNOWN, UnknownTargetError),
        (WishFault.NOT_POSSIBLE, NotPossibleError),
        (WishFault.INVALID, InvalidRequestError),
    ],
)
def test_what_is_refused_is_an_error(fault: WishFault, error: type) -> None:
    wishes, _, found = begun(Drain(device=HERE))
    wishes.hear(WishRefused(ticket=1, fault=fault, reason="why not", field="device"))
    with pytest.raises(error, match="why not"):
        found.result(0)


def test_each_answer_finds_its_command() -> None:
    wishes = OpenWishes()
    founds = [Future[Answer]() for _ in range(2)]
    tickets = [wishes.begin(Undrain(device=HERE), each).ticket for each in founds]
    wishes.hear(AsideDone(ticket=99, is_serving=True, is_open=True, requests_left=0))
    for ticket, left in zip(reversed(tickets), (5, 6), strict=True):
        done = AsideDone(
            ticket=ticket, is_serving=True, is_open=True, requests_left=left
        )
        wishes.hear(done)
        wishes.hear(done)  # nobody waits for it any more
    assert [each.result(0).requests_left for each in founds] == [6, 5]


def test_no_answer_comes_of_a_controller_that_is_gone() -> None:
    wishes, _, found = begun(Drain(device=HERE))
    wishes.cut()
    with pytest.raises(NotPossibleError, match="went away: look whether"):
        found.result(0)
    wishes.cut()

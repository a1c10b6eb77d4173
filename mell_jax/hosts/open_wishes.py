"""Commands that change something are the controller's to do: a front end asks.

Migrate, Drain, Undrain, SetPolicy -> wish -> controller
Migration, DeviceStatus, PolicyChange <- answer <-'
"""

from concurrent.futures import Future
from typing import final

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

Wanted = Migrate | Drain | Undrain | SetPolicy
"""Commands that the controller carries out."""


@final
class OpenWishes:
    """These wait for the controller's answer; they belong to one front end."""

    def __init__(self) -> None:
        self._last_ticket = 0
        self._open: dict[int, tuple[Wanted, Future[Answer]]] = {}

    def begin(self, command: Wanted, found: Future[Answer]) -> Wish:
        """Returns what to tell the controller; `found` is to have its answer."""
        self._last_ticket += 1
        self._open[self._last_ticket] = (command, found)
        return _wish(command, ticket=self._last_ticket)

    def hear(self, answer: WishAnswer) -> None:
        """The controller has answered; an answer that nobody waits for is ignored."""
        opened = self._open.pop(answer.ticket, None)
        if opened is None:
            return
        command, found = opened
        if isinstance(answer, WishRefused):
            found.set_exception(_error(answer))
        else:
            found.set_result(_answer(command, answer))

    def cut(self) -> None:
        """The controller is gone, and with it what it would have answered."""
        opened, self._open = self._open, {}
        for _, found in opened.values():
            gone = "the controller went away: look whether it was done, and ask again"
            found.set_exception(NotPossibleError(gone))


def _wish(command: Wanted, *, ticket: int) -> Wish:
    match command:
        case Migrate(request=request, device=device):
            return MoveWish(
                ticket=ticket,
                request=RequestId(request),
                device=DeviceGroupId(device),
            )
        case Drain(device=device) | Undrain(device=device):
            return AsideWish(
                ticket=ticket,
                device=DeviceGroupId(device),
                is_aside=isinstance(command, Drain),
            )
        case SetPolicy(policy=policy, look_s=look_s, headroom=headroom):
            return PolicyWish(
                ticket=ticket, policy=policy, look_s=look_s, headroom=headroom
            )


def _error(refused: WishRefused) -> Exception:
    match refused.fault:
        case WishFault.UNKNOWN:
            return UnknownTargetError(refused.reason)
        case WishFault.INVALID:
            return InvalidRequestError(refused.field, refused.reason)
        case WishFault.NOT_POSSIBLE:
            return NotPossibleError(refused.reason)


def _answer(
    command: Wanted, answer: MoveDone | AsideDone | PolicyDone
) -> Migration | DeviceStatus | PolicyChange:
    match command, answer:
        case Migrate(), MoveDone():
            return Migration(
                source=answer.source,
                target=command.device,
                is_moving=answer.is_moving,
            )
        case Drain() | Undrain(), AsideDone():
            return DeviceStatus(
                state=_state(answer, is_aside=isinstance(command, Drain)),
                requests_left=answer.requests_left,
            )
        case SetPolicy(), PolicyDone():
            return PolicyChange(
                policy=command.policy, before=answer.before, look_s=answer.look_s
            )
        case _:
            raise AssertionError(f"{answer} does not answer {command}")


def _state(done: AsideDone, *, is_aside: bool) -> GroupState:
    if is_aside:
        return GroupState.DRAINING if done.is_serving else GroupState.DRAINED
    if not done.is_serving:
        return GroupState.PARKED
    return GroupState.SERVING if done.is_open else GroupState.OPENING

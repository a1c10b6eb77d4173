"""The controller fulfils what an operator wants, as far as the books let it.

wish -> `Operator.hear` -> placement, hosts
                        -> MoveDone, AsideDone, PolicyDone or WishRefused
"""

from collections.abc import Callable
from typing import Any, final

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.dispatcher import Dispatcher
from mell_jax.scheduler.hosts.outbox import Outbox
from mell_jax.scheduler.hosts.roll import HostEntry, PeerId, Roll
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
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement import events
from mell_jax.scheduler.placement.operator import (
    NotPossibleError,
    UnknownTargetError,
    check_moves,
    relocation,
    removal,
)
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.chosen import ChoiceError, chosen_policy

_MOST_NAMED = 20


@final
class Operator:
    """The operator is the coordinator's.

    Args:
      dispatcher: carries out what placement decides.
      roll: of who is there.
      outbox: what is to be sent goes there.
      policy: the name of the one that the dispatcher begins with.
      policies: its knobs, and those of others.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        roll: Roll,
        outbox: Outbox,
        policy: str,
        policies: PolicyConfig,
    ) -> None:
        self.policy = policy
        self._policies = policies
        self._dispatcher = dispatcher
        self._roll = roll
        self._outbox = outbox
        self._acts: dict[type, Callable[[Any], WishAnswer]] = {
            MoveWish: self._move,
            AsideWish: self._set_aside,
            PolicyWish: self._set_policy,
        }

    def hear(self, peer: PeerId, wish: Wish) -> None:
        """Fulfils a wish, or says why not."""
        try:
            answer = self._acts[type(wish)](wish)
        except UnknownTargetError as error:
            answer = _refused(wish, WishFault.UNKNOWN, error)
        except NotPossibleError as error:
            answer = _refused(wish, WishFault.NOT_POSSIBLE, error)
        self._outbox.send(peer, answer)

    def put_off(self, peer: PeerId, wish: Wish) -> None:
        """Refuses a wish that comes before there is anything to decide about."""
        refused = WishRefused(
            ticket=wish.ticket,
            fault=WishFault.NOT_POSSIBLE,
            reason="the controller gathers what there is; ask again in some seconds",
        )
        self._outbox.send(peer, refused)

    def _move(self, wish: MoveWish) -> MoveDone:
        machine = self._dispatcher.machine
        self._host(wish.device)
        request = machine.ledger.requests.get(wish.request)
        if request is None or wish.request not in self._dispatcher.requests:
            raise UnknownTargetError(
                f"there is no request {wish.request}; it never came or has ended"
            )
        event = relocation(
            machine.ledger, request, device=wish.device, state_of=self._state_of
        )
        source = request.device
        assert source is not None, "one without a place goes nowhere"
        if event is not None:
            self._dispatcher.decide(event)
            check_moves(request, device=wish.device)
        return MoveDone(ticket=wish.ticket, source=source, is_moving=event is not None)

    def _set_aside(self, wish: AsideWish) -> AsideDone:
        host, device = self._host(wish.device), wish.device
        if host.is_leaving:
            raise NotPossibleError(f"host {host.name} is about to leave")
        if wish.is_aside:
            if not host.is_serving:
                raise NotPossibleError(
                    f"host {host.name} is about to join; ask again in some seconds"
                )
            event = removal(
                self._dispatcher.machine,
                device=device,
                instead="stop its host, or the server, instead",
            )
            host.aside.add(device)
            if event is not None:
                self._dispatcher.decide(event)
        elif device in host.aside:
            host.aside.discard(device)
            if host.is_serving:
                self._dispatcher.decide(events.DeviceAdded(device=device))
        aside = words.SetAside(device=device, is_aside=wish.is_aside)
        self._outbox.send(host.peer, aside)
        instance = self._dispatcher.machine.ledger.instances.get(device)
        return AsideDone(
            ticket=wish.ticket,
            is_serving=instance is not None,
            is_open=self._dispatcher.carriage.is_open(device),
            requests_left=0 if instance is None else instance.rows,
        )

    def _set_policy(self, wish: PolicyWish) -> PolicyDone | WishRefused:
        try:
            policy = chosen_policy(
                wish.policy,
                base=self._policies,
                look_s=wish.look_s,
                headroom=wish.headroom,
            )
        except ChoiceError as error:
            return WishRefused(
                ticket=wish.ticket,
                fault=WishFault.INVALID,
                field=error.field,
                reason=error.rule,
            )
        self._dispatcher.adopt_policy(policy)
        before, self.policy = self.policy, wish.policy
        return PolicyDone(ticket=wish.ticket, before=before, look_s=policy.look_s)

    def _host(self, device: DeviceGroupId) -> HostEntry:
        host = self._roll.host_of(device)
        if host is None:
            hosts = self._roll.hosts.values()
            known = sorted(device for host in hosts for device in host.devices)
            more = ", ..." if len(known) > _MOST_NAMED else ""
            raise UnknownTargetError(
                f"there is no device {device}; there is "
                f"{', '.join(map(str, known[:_MOST_NAMED])) or 'none'}{more}"
            )
        return host

    def _state_of(self, device: DeviceGroupId) -> str:
        is_idle = self._dispatcher.machine.ledger.is_idle(device)
        return "parked" if is_idle else "drained"


def _refused(wish: Wish, fault: WishFault, error: Exception) -> WishRefused:
    return WishRefused(ticket=wish.ticket, fault=fault, reason=str(error))

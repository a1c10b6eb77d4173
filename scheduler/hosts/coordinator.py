"""The controller's part: placement, moves and owner records of a fleet of hosts.

    heard(peer, message), beat, cut  ->  coordinator  ->  Send(peer, message)
                                          machine      Place, Move, Preempt, Open, Park
                                          controller   owners, commits

It adopts what there is when it begins: it waits until all have reported of whom others
know, or for `patience` beats, and then decides from the front ends' streams which
copies count. It knows no tokens but those that a stopped row hands over.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.adoption import Adopted, Adoption
from mell_jax.scheduler.hosts.carriage import Carriage
from mell_jax.scheduler.hosts.roll import FrontEntry, HostEntry, PeerId, Roll
from mell_jax.scheduler.ids import (
    CopyId,
    DeviceGroupId,
    Epoch,
    ModelId,
    RequestId,
    front_of,
)
from mell_jax.scheduler.migration import effects, messages
from mell_jax.scheduler.migration import events as orders
from mell_jax.scheduler.migration.controller import Controller
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send this over a link."""

    to: PeerId
    message: words.ToHost | words.ToFront


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """End a link: whoever is there is not in the fleet."""

    peer: PeerId


Effect = Send | HangUp

_EPOCH_BITS = 20  # that tell the epochs of one generation from each other


class _Request:
    """A request as the controller knows it."""

    __slots__ = ("ask", "pages")

    def __init__(self, ask: words.Ask) -> None:
        self.ask = ask
        self.pages = ask.pages  # granted


class Coordinator:
    """The coordinator decides for a fleet; there is one.

    Args:
      models: what an instance of each model can hold.
      policy: new; it places and moves requests.
      patience: beats of silence after which a host or a front end is given up, and
        for which reports are waited for at the beginning.
      generation: that no controller of these hosts had before; drawn at random, as it
        need not follow on.
      least_hosts: that it waits for before it adopts.
    """

    def __init__(
        self,
        *,
        models: Mapping[ModelId, ModelSpec],
        policy: Policy,
        patience: int,
        generation: int = 0,
        least_hosts: int = 1,
    ) -> None:
        self.machine = Machine(models=models, policy=policy)
        self.controller = Controller(stride=words.STRIDE)
        self.roll = Roll(patience=patience)
        self.requests: dict[RequestId, _Request] = {}
        self._adoption: Adoption | None = Adoption(
            patience=patience, least_hosts=least_hosts
        )
        self._carriage = Carriage(self.machine.ledger)
        self._last_epoch = generation << _EPOCH_BITS
        self._last_device = 0
        self._since: dict[DeviceGroupId, CopyId] = {}  # when each was opened
        self._returning: dict[RequestId, words.Ask] = {}  # when its past is settled
        self._reports: deque[events.Event] = deque()
        self._effects: list[Effect] = []
        self._hears: dict[type, Callable[[Any, Any], None]] = {
            words.Told: self._told,
            words.Want: self._want,
            words.GroupOpened: self._group_opened,
            words.GroupFailed: self._group_failed,
            words.LinkMeasured: self._link_measured,
            words.PeerCut: self._peer_cut,
            words.Ask: self._ask,
            words.Over: self._over,
            words.Broken: self._broken,
            words.Reached: self._reached,
            words.Unreachable: self._unreachable,
        }

    # -- what happens --------------------------------------------------------------

    @property
    def is_adopting(self) -> bool:
        """Returns whether it still waits for reports, and decides nothing."""
        return self._adoption is not None

    def heard(self, peer: PeerId, message: Any, *, now_s: float) -> Sequence[Effect]:
        """Takes a message of a host or a front end.

        Args:
          message: one of `words.FromHost` or `words.FromFront`.
          now_s: seconds of a clock that does not go back.
        """
        self.roll.heard(peer)
        self._set_clock(now_s)
        match message:
            case words.Join():
                self._join(peer, message)
            case words.Enter():
                self._enter(peer, message)
            case words.Beat():
                pass
            case _ if self._adoption is not None:
                self._adoption.hear(message)
            case _:
                entry = self.roll.who(peer)
                if entry is not None:  # else it was given up, and has not heard of it
                    self._hears[type(message)](entry, message)
        return self._settle()

    def cut(self, peer: PeerId, *, now_s: float) -> Sequence[Effect]:
        """A link has ended."""
        self._set_clock(now_s)
        self._lose_peer(peer)
        return self._settle()

    def beat(self, *, now_s: float) -> Sequence[Effect]:
        """Counts a beat of silence for everybody, once all that was said is heard."""
        self._set_clock(now_s)
        for peer in self.roll.beat():
            self._effects.append(HangUp(peer=peer))
            self._lose_peer(peer)
        if self._adoption is not None:
            self._adoption.beat()
            self._adopt_if_ready()
        for host in self.roll.hosts.values():
            self._send(host.peer, words.Beat())
        for front in self.roll.fronts.values():
            self._send(front.peer, words.Beat())
        return self._settle()

    def tick(self, *, now_s: float) -> Sequence[Effect]:
        """Ends an epoch of placement: it may consolidate, and links have room again."""
        self._set_clock(now_s)
        self._carriage.renew()
        if self._adoption is None:
            self._decide(events.Tick(now_s=now_s))
        return self._settle()

    def wake(self, *, now_s: float) -> Sequence[Effect]:
        """Lets placement decide about requests that it has let wait until now."""
        self._set_clock(now_s)
        if self._adoption is None:
            self._decide(events.Wake())
        return self._settle()

    # -- who is there --------------------------------------------------------------

    def _join(self, peer: PeerId, join: words.Join) -> None:
        if self._adoption is not None:
            self._adoption.join(peer, join)
            self._adopt_if_ready()
            return
        before = self.roll.hosts.get(join.epoch) if join.epoch is not None else None
        if before is not None and before.name == join.name:
            self._lose_host(before)  # its link has ended, as will be heard
        self._admit(peer, join)

    def _admit(self, peer: PeerId, join: words.Join) -> None:
        """Lets a host in that begins empty, whatever it had before."""
        self._last_epoch += 1
        first = self._last_device + 1
        self._last_device += join.num_groups
        devices = tuple(map(DeviceGroupId, range(first, self._last_device + 1)))
        host = self.roll.admit(
            Epoch(self._last_epoch), name=join.name, peer=peer, devices=devices
        )
        self._send(peer, words.Admit(epoch=host.epoch, devices=devices))
        self._tell_hosts()
        self._serve_reached()

    def _enter(self, peer: PeerId, enter: words.Enter) -> None:
        if self._adoption is not None:
            self._adoption.enter(peer, enter)
            self._adopt_if_ready()
            return
        before = self.roll.fronts.get(enter.front)
        if before is not None:
            self._lose_front(before)  # its link has ended, as will be heard
        self.roll.enter(enter.front, peer=peer)
        self._note_reached(enter)
        self._send(peer, words.Hosts(hosts=self.roll.told()))
        for stream in enter.streams:
            self._send(peer, words.Disowned(request=stream.ask.request))
            self._come_back(stream.ask)

    def _note_reached(self, enter: words.Enter) -> None:
        for epoch in enter.hosts:
            if epoch in self.roll.hosts:
                self.roll.hosts[epoch].reached.add(enter.front)

    def _come_back(self, ask: words.Ask) -> None:
        """Takes a request in that may not have gone altogether since it was here."""
        self._end(ask.request)
        if ask.request in self.controller.owners:
            self._returning[ask.request] = ask
        else:
            self._arrive(ask)

    def _adopt_if_ready(self) -> None:
        adoption = self._adoption
        if adoption is None or not adoption.is_complete:
            return
        self._adoption = None
        adopted = adoption.decide()
        self._last_device = adopted.seen.device
        self.controller = Controller(
            last_copy_id=adopted.seen.copy_id, stride=words.STRIDE
        )
        for enter, peer in adopted.fronts:
            self.roll.enter(enter.front, peer=peer)
        for join, peer in adopted.hosts:
            self._take_over(join, peer, adopted)
        for stream in adopted.placed:
            self._adopt(stream)
        for enter, _ in adopted.fronts:
            self._note_reached(enter)
        for join, peer in adopted.strangers:
            self._admit(peer, join)
        self._tell_hosts()
        self._serve_reached()
        for ask in adopted.waiting:
            self._send_front(ask.request, words.Disowned(request=ask.request))
            self._arrive(ask)

    def _take_over(self, join: words.Join, peer: PeerId, adopted: Adopted) -> None:
        """Goes on with a host that a predecessor admitted."""
        assert join.epoch is not None
        devices = [group.device for group in join.groups]
        host = self.roll.admit(join.epoch, name=join.name, peer=peer, devices=devices)
        host.is_serving = True
        for group in join.groups:
            self._since[group.device] = group.since
            self.controller.step(orders.AddDevice(device=group.device))
            if group.model is None:
                self._decide(events.DeviceAdded(device=group.device))
            else:
                self._decide(events.Serving(device=group.device, model=group.model))
                self._carriage.open(group.device)
        keep = words.Retain(copies=adopted.kept, horizon=self.controller.next_copy_id)
        self._send(peer, keep)

    def _adopt(self, stream: words.StreamReport) -> None:
        ask, device, copy_id = stream.ask, stream.device, stream.copy_id
        assert device is not None and copy_id is not None
        self.requests[ask.request] = _Request(ask)
        self.controller.step(
            orders.AdoptRequest(request=ask.request, device=device, copy_id=copy_id)
        )
        self._decide(events.Adopt(arrival=_arrival(ask), device=device))
        known = self.machine.ledger.requests.get(ask.request)
        if known is not None and known.device is None:  # no room, by these books
            self._control(orders.PreemptRequest(request=ask.request))

    def _serve_reached(self) -> None:
        """Takes hosts into the books that every front end has reached."""
        for host in self.roll.hosts.values():
            if host.is_serving or not self.roll.is_reached(host):
                continue
            host.is_serving = True
            for device in host.devices:
                self.controller.step(orders.AddDevice(device=device))
                self._decide(events.DeviceAdded(device=device))

    def _tell_hosts(self) -> None:
        hosts = words.Hosts(hosts=self.roll.told())
        for front in self.roll.fronts.values():
            self._send(front.peer, hosts)
        for host in self.roll.hosts.values():
            self._send(host.peer, hosts)

    def _lose_peer(self, peer: PeerId) -> None:
        if self._adoption is not None:
            self._adoption.forget(peer)
            self._adopt_if_ready()
        entry = self.roll.who(peer)
        match entry:
            case HostEntry():
                self._lose_host(entry)
            case FrontEntry():
                self._lose_front(entry)
        self.roll.forget(peer)

    def _lose_host(self, host: HostEntry) -> None:
        """Gives a host up: its requests start again elsewhere."""
        self.roll.remove(host)
        self._tell_hosts()
        if host.is_serving:
            for device in host.devices:
                self._lose_device(device)

    def _lose_device(self, device: DeviceGroupId) -> None:
        if not self._knows(device):
            return  # it has failed before
        self._carriage.close(device)
        self._control(orders.LoseDevice(device=device))
        self._reports.append(events.DeviceLost(device=device))

    def _knows(self, device: DeviceGroupId) -> bool:
        ledger = self.machine.ledger
        return device in ledger.instances or ledger.is_idle(device)

    def _lose_front(self, front: FrontEntry) -> None:
        """Ends the requests of a front end: nobody is there to hear them."""
        for request in list(self.requests):
            if front_of(request) == front.front:
                self._end(request)
        self._returning = {
            request: ask
            for request, ask in self._returning.items()
            if front_of(request) != front.front
        }
        self.roll.forget(front.peer)
        self._serve_reached()

    # -- what hosts say ------------------------------------------------------------

    def _told(self, host: HostEntry, message: words.Told) -> None:
        if message.device not in host.devices:
            return
        if isinstance(message.message, messages.Released):
            self._see_released(message.message)
        self._control(message.message)

    def _see_released(self, message: messages.Released) -> None:
        """Starts again what a host has let go by itself: it lost the front end."""
        owner = self.controller.owners.get(message.request)
        if owner is None or message.copy_id in owner.closing:
            return
        if owner.move is not None and owner.move.copy_id == message.copy_id:
            self._control(orders.AbortMove(request=owner.request, move=owner.move.id))
        if owner.copy_id == message.copy_id and owner.home is not None:
            self._decide(events.Displace(request=message.request))

    def _want(self, _: HostEntry, message: words.Want) -> None:
        request = self.requests.get(message.request)
        owner = self.controller.owners.get(message.request)
        known = self.machine.ledger.requests.get(message.request)
        if request is None or owner is None or known is None:
            return
        if owner.copy_id != message.copy_id or known.device is None:
            return
        is_asked = self.machine.ledger.wanted_pages(known) >= message.pages
        if not is_asked:
            self._decide(events.Grow(request=message.request, pages=message.pages))
        if known.pages >= message.pages and message.request in self.requests:
            request.pages = max(request.pages, known.pages)
            self._grant(message.request)

    def _group_opened(self, host: HostEntry, message: words.GroupOpened) -> None:
        if message.device in self.machine.ledger.instances:
            self._carriage.open(message.device)
            self._decide(events.Activated(model=message.model, took_s=message.took_s))

    def _group_failed(self, host: HostEntry, message: words.GroupFailed) -> None:
        self._lose_device(message.device)

    def _link_measured(self, host: HostEntry, message: words.LinkMeasured) -> None:
        self._carriage.measure(message)

    def _peer_cut(self, host: HostEntry, message: words.PeerCut) -> None:
        other = self.roll.hosts.get(message.epoch)
        ends = {*host.devices, *(other.devices if other is not None else ())}
        for owner in list(self.controller.owners.values()):
            move = owner.move
            if move is not None and {move.source, move.target} <= ends:
                self._control(orders.AbortMove(request=owner.request, move=move.id))

    # -- what front ends say -------------------------------------------------------

    def _ask(self, _: FrontEntry, ask: words.Ask) -> None:
        self._arrive(ask)

    def _over(self, _: FrontEntry, message: words.Over) -> None:
        self._returning.pop(message.request, None)
        self._end(message.request)

    def _broken(self, _: FrontEntry, message: words.Broken) -> None:
        owner = self.controller.owners.get(message.request)
        if owner is None or owner.copy_id != message.copy_id:
            return  # it has another copy by now, or soon
        if message.request in self.requests and owner.home is not None:
            self._decide(events.Displace(request=message.request))

    def _reached(self, front: FrontEntry, message: words.Reached) -> None:
        host = self.roll.hosts.get(message.epoch)
        if host is not None:
            host.reached.add(front.front)
            self._serve_reached()

    def _unreachable(self, _: FrontEntry, message: words.Unreachable) -> None:
        host = self.roll.hosts.get(message.epoch)
        if host is not None:
            self._send(host.peer, words.Fenced(reason="a front end lost its link"))
            self._lose_host(host)

    def _arrive(self, ask: words.Ask) -> None:
        self.requests[ask.request] = _Request(ask)
        self._decide(_arrival(ask))

    def _end(self, request: RequestId) -> None:
        if self.requests.pop(request, None) is None:
            return
        self._control(orders.End(request=request))
        self._reports.append(events.Finish(request=request))

    # -- decisions -----------------------------------------------------------------

    def _decide(self, event: events.Event) -> None:
        for decision in self.machine.step(event).decisions:
            self._obey(decision)

    def _obey(self, decision: plan.Decision) -> None:
        match decision:
            case plan.Place():
                self._place(decision)
            case plan.Move():
                self._carriage.ask(decision)
            case plan.Preempt():
                self._control(orders.PreemptRequest(request=decision.request))
            case plan.Activate():
                self._open_group(decision.device, decision.model)
            case plan.Park():
                self._carriage.close(decision.device)
                self._send_device(
                    decision.device, words.CloseGroup(device=decision.device)
                )
            case plan.Reject():
                self._refuse(decision)
            case plan.Wait():
                pass

    def _open_group(self, device: DeviceGroupId, model: ModelId) -> None:
        horizon = self._since[device] = self.controller.next_copy_id
        self._send_device(
            device, words.OpenGroup(device=device, model=model, horizon=horizon)
        )

    def _place(self, decision: plan.Place) -> None:
        request = self.requests.get(decision.request)
        if request is None:
            return  # it is over; the books are about to hear of it
        request.pages = decision.pages
        owner = self.controller.owners.get(decision.request)
        if owner is not None and owner.home is not None:
            self._grant(decision.request)
            return
        self._control(
            orders.StartRequest(
                request=decision.request,
                device=decision.device,
                known=request.ask.prompt,
            )
        )

    def _grant(self, request: RequestId) -> None:
        owner = self.controller.owners.get(request)
        if owner is not None and owner.home is not None:
            grant = words.Grant(
                request=request,
                copy_id=owner.copy_id,
                pages=self.requests[request].pages,
            )
            self._send_device(owner.home, grant)

    def _refuse(self, decision: plan.Reject) -> None:
        if self.requests.pop(decision.request, None) is not None:
            self._control(orders.End(request=decision.request))
            self._send_front(
                decision.request,
                words.Refused(request=decision.request, reason=decision.reason.value),
            )

    def _begin_moves(self) -> None:
        for move, mode in self._carriage.begin():
            request = self.requests.get(move.request)
            if request is None:
                continue
            request.pages = max(request.pages, move.pages)
            self._control(
                orders.BeginMove(
                    move=move,
                    mode=mode,
                    pages=request.pages,
                    known=request.ask.prompt,
                )
            )

    def _control(self, event: orders.ControllerEvent | messages.ToController) -> None:
        for effect in self.controller.step(event):
            match effect:
                case effects.Send():
                    self._send_endpoint(effect)
                case effects.Report():
                    self._reports.append(effect.event)
                case effects.Fence():
                    self._fence(effect)
                case effects.Forget():
                    self._forgotten(effect.request)
                case effects.Deliver():
                    pass  # the front end has these tokens from the source itself

    def _fence(self, fence: effects.Fence) -> None:
        """Tells a front end that a request has no copy; openings tell it the rest."""
        owner = self.controller.owners.get(fence.request)
        if owner is None or owner.home is None:
            self._send_front(fence.request, words.Disowned(request=fence.request))

    def _forgotten(self, request: RequestId) -> None:
        ask = self._returning.pop(request, None)
        if ask is not None:
            self._arrive(ask)

    def _settle(self) -> Sequence[Effect]:
        """Hears reports and begins moves until there are none; returns what to send."""
        while self._reports or self._carriage.is_asked:
            if self._reports:
                self._decide(self._reports.popleft())
            else:
                self._begin_moves()
        done, self._effects = self._effects, []
        return done

    # -- sending -------------------------------------------------------------------

    def _send_endpoint(self, effect: effects.Send) -> None:
        message, device = effect.message, effect.to
        if isinstance(message, words.Ordered):
            self._send_device(device, words.Order(device=device, message=message))
            return
        assert isinstance(message, words.Opened), f"{message} is no opening"
        host = self.roll.host_of(device)
        request = self.requests.get(message.request)
        if host is None or request is None:
            return  # lost, or over: what follows undoes it
        self._send_front(
            message.request,
            words.Relayed(
                epoch=host.epoch,
                device=device,
                since=self._since[device],
                pages=request.pages,
                message=message,
            ),
        )

    def _send_device(self, device: DeviceGroupId, message: words.ToHost) -> None:
        host = self.roll.host_of(device)
        if host is not None:
            self._send(host.peer, message)

    def _send_front(self, request: RequestId, message: words.ToFront) -> None:
        front = self.roll.fronts.get(front_of(request))
        if front is not None:
            self._send(front.peer, message)

    def _send(self, peer: PeerId, message: words.ToHost | words.ToFront) -> None:
        self._effects.append(Send(to=peer, message=message))

    def _set_clock(self, now_s: float) -> None:
        ledger = self.machine.ledger
        ledger.now_s = max(ledger.now_s, now_s)


def _arrival(ask: words.Ask) -> events.Arrive:
    return events.Arrive(
        request=ask.request,
        pages=ask.pages,
        model=ask.model,
        peak_pages=ask.peak_pages,
        tenant=ask.tenant,
        weight=ask.weight,
    )

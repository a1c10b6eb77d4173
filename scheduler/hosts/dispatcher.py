"""The dispatcher carries out what placement decides, with what hosts tell of it.

    ask, want, over  ->  machine      Place, Move, Preempt, Open, Park
    hosts' answers   ->  controller   owners, commits
                             '--> openings by way of front ends, orders to hosts

It has the requests of the fleet. Who is there it reads from the roll; the coordinator
tells it who comes and goes.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.carriage import Carriage
from mell_jax.scheduler.hosts.outbox import Outbox
from mell_jax.scheduler.hosts.roll import Roll
from mell_jax.scheduler.hosts.tally import Tally
from mell_jax.scheduler.ids import (
    CopyId,
    DeviceGroupId,
    FrontId,
    ModelId,
    RequestId,
    front_of,
)
from mell_jax.scheduler.migration import effects, messages
from mell_jax.scheduler.migration import events as orders
from mell_jax.scheduler.migration.controller import Controller
from mell_jax.scheduler.migration.records import Owner
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import Policy


class Placed:
    """A request as the controller knows it."""

    __slots__ = ("ask", "pages")

    def __init__(self, ask: words.Ask) -> None:
        self.ask = ask
        self.pages = ask.pages  # granted


class Dispatcher:
    """The dispatcher is the coordinator's.

    Args:
      models: what an instance of each model can hold.
      policy: new; it places and moves requests.
      roll: of who is there; read only.
      outbox: what is to be sent goes there.
      epoch_s: between two calls of `renew_links`.
      pages_ahead: that a row gets at most beyond what it asks for.
    """

    def __init__(
        self,
        *,
        models: Mapping[ModelId, ModelSpec],
        policy: Policy,
        roll: Roll,
        outbox: Outbox,
        epoch_s: float,
        pages_ahead: int,
    ) -> None:
        self.machine = Machine(models=models, policy=policy, may_go=roll.may_go)
        self.controller = Controller(stride=words.STRIDE)
        self.requests: dict[RequestId, Placed] = {}
        self._roll = roll
        self._pages_ahead = pages_ahead
        self._outbox = outbox
        self.carriage = Carriage(self.machine.ledger, epoch_s=epoch_s)
        self.tally = Tally(roll)
        self._since: dict[DeviceGroupId, CopyId] = {}  # when each was opened
        self._arriving: dict[RequestId, words.Ask] = {}  # since the last event
        self._returning: dict[RequestId, words.Ask] = {}  # when their past is settled
        self._reports: deque[events.Event] = deque()

    # -- device groups -------------------------------------------------------------

    def number_from(self, last_copy_id: CopyId) -> None:
        """Gives out copy ids above those of predecessors, before anything else."""
        assert not self.controller.owners, "copies are numbered already"
        self.controller = Controller(last_copy_id=last_copy_id, stride=words.STRIDE)

    def add_device(
        self,
        device: DeviceGroupId,
        *,
        prefill_tokens_per_s: float,
        is_aside: bool = False,
    ) -> None:
        """Takes an empty device group in, with its speed for moves.

        Args:
          is_aside: it is not used, until placement hears that it was added.
        """
        self.carriage.add(device, prefill_tokens_per_s=prefill_tokens_per_s)
        self.controller.step(orders.AddDevice(device=device))
        if not is_aside:
            self.decide(events.DeviceAdded(device=device))

    def take_over(
        self,
        group: words.GroupReport,
        *,
        prefill_tokens_per_s: float,
        is_aside: bool,
    ) -> None:
        """Takes a device group into the books as a predecessor has left it."""
        device, model = group.device, group.model
        if model is None:
            self.add_device(
                device, prefill_tokens_per_s=prefill_tokens_per_s, is_aside=is_aside
            )
            return
        self.carriage.add(device, prefill_tokens_per_s=prefill_tokens_per_s)
        self._since[device] = group.since
        self.controller.step(orders.AddDevice(device=device))
        self.decide(events.Serving(device=device, model=model))
        self.carriage.open(device)

    def give_back(self, devices: Collection[DeviceGroupId]) -> None:
        """Moves away what device groups have, and takes them out of the books then."""
        for device in devices:
            if self._knows(device) and not self.machine.is_draining(device):
                self.decide(events.DeviceRemoved(device=device))

    def _knows(self, device: DeviceGroupId) -> bool:
        ledger = self.machine.ledger
        return device in ledger.instances or ledger.is_idle(device)

    def lose_devices(self, devices: Sequence[DeviceGroupId]) -> None:
        """Takes device groups out of the books at once: what they had is gone.

        Placement hears of moves that were committed first, so that these count, and of
        those that are off last: so it knows what lost its home when it looks at their
        targets, which may be the place for it.
        """
        before, self._reports = self._reports, deque()
        for device in devices:
            self._count_lost(device)
            self._control(orders.LoseDevice(device=device))
        follows, self._reports = self._reports, before
        committed = [r for r in follows if isinstance(r, events.MoveCommitted)]
        self._reports.extend(committed)
        self._reports.append(events.DevicesLost(devices=tuple(devices)))
        self._reports.extend(report for report in follows if report not in committed)

    def part(self, front: FrontId, devices: Collection[DeviceGroupId]) -> None:
        """Has the requests of a front end go elsewhere: it has no link to these."""
        for device in devices:
            for owner in self.controller.concerned(device):
                if front_of(owner.request) == front:
                    self._drive_away(owner, device)

    def _drive_away(self, owner: Owner, device: DeviceGroupId) -> None:
        moves = [owner.move.order.move] if owner.move is not None else []
        moves += [owner.next_move.move] if owner.next_move is not None else []
        for move in moves:
            if move.target == device != owner.home:
                self._control(orders.AbortMove(request=owner.request, move=move.move))
        if owner.home == device and owner.request in self.requests:
            self.decide(events.Displace(request=owner.request))

    def _count_lost(self, device: DeviceGroupId) -> None:
        if self._knows(device):  # or else it was given back
            owners = self.controller.concerned(device)
            self.tally.lose(requests=sum(owner.home == device for owner in owners))

    def device_opened(self, message: words.GroupOpened) -> None:
        """A device group is ready."""
        if message.device in self.machine.ledger.instances:
            self.tally.open(message.took_s)
            self.carriage.open(message.device)
            self.decide(events.Activated(model=message.model, took_s=message.took_s))

    # -- requests ------------------------------------------------------------------

    def arrive(self, ask: words.Ask) -> None:
        """Takes a request in, once nothing is left of what it may have been before."""
        self.end(ask.request)
        if ask.request in self.controller.owners:
            self._returning[ask.request] = ask
        else:
            self._arriving[ask.request] = ask

    def adopt(self, stream: words.StreamReport) -> None:
        """Takes a request in that runs already."""
        ask, device, copy_id = stream.ask, stream.device, stream.copy_id
        assert device is not None and copy_id is not None
        self.requests[ask.request] = Placed(ask)
        self.controller.step(
            orders.AdoptRequest(request=ask.request, device=device, copy_id=copy_id)
        )
        self.decide(events.Adopt(arrival=_arrival(ask), device=device))

    def end(self, request: RequestId) -> None:
        """Ends a request, if it is here."""
        self._arriving.pop(request, None)
        self._returning.pop(request, None)
        if self.requests.pop(request, None) is None:
            return
        self._control(orders.End(request=request))
        self._reports.append(events.Finish(request=request))

    def end_all(self, front: FrontId) -> None:
        """Ends the requests of a front end: nobody is there to hear them."""
        for request in [*self.requests, *self._arriving, *self._returning]:
            if front_of(request) == front:
                self.end(request)

    def start_again(self, message: words.Broken) -> None:
        """Starts a request again whose stream cannot go on as that copy."""
        owner = self.controller.owners.get(message.request)
        if owner is None or owner.copy_id != message.copy_id:
            return  # it has another copy by now, or soon
        if message.request in self.requests and owner.home is not None:
            self.decide(events.Displace(request=message.request))

    def want(self, message: words.Want) -> None:
        """A row needs pages: it gets them now, or when there are any."""
        request = self.requests.get(message.request)
        owner = self.controller.owners.get(message.request)
        if request is None or owner is None or owner.copy_id != message.copy_id:
            return
        known = self.machine.ledger.requests.get(message.request)
        if known is None or known.device is None:
            return
        pages = self.machine.extend(
            message.request, pages=message.pages, most=self._pages_ahead
        )
        if pages < message.pages:
            self._grow(known, message.pages)
        if known.pages >= message.pages and message.request in self.requests:
            request.pages = max(request.pages, known.pages)
            self._grant(owner, pages=request.pages)

    def _grow(self, known: RequestAccount, pages: int) -> None:
        """Has placement find room, unless it looks for it already."""
        if self.machine.ledger.wanted_pages(known) < pages:
            self.decide(events.Grow(request=known.id, pages=pages))

    def told(self, message: messages.ToController) -> None:
        """A device group has answered."""
        if isinstance(message, messages.Released):
            self._see_released(message)
        self._control(message)

    def _see_released(self, message: messages.Released) -> None:
        """Starts again what a host has let go by itself: it lost the front end."""
        owner = self.controller.owners.get(message.request)
        if owner is None or message.copy_id in owner.closing:
            return
        if owner.move is not None and owner.move.copy_id == message.copy_id:
            self._control(orders.AbortMove(request=owner.request, move=owner.move.id))
        if owner.copy_id == message.copy_id and owner.home is not None:
            self.decide(events.Displace(request=message.request))

    # -- moves ---------------------------------------------------------------------

    def renew_links(self) -> None:
        """An epoch ends: links have room again."""
        self.carriage.renew()

    def measure(self, message: words.LinkMeasured) -> None:
        """Learns how fast a link is."""
        self.carriage.measure(message)

    def abort_between(self, ends: Collection[DeviceGroupId]) -> None:
        """Calls off the moves between these device groups."""
        for device in ends:
            for owner in self.controller.concerned(device):
                move = owner.move
                if move is not None and move.source in ends and move.target in ends:
                    self._control(orders.AbortMove(request=owner.request, move=move.id))

    def settle(self) -> None:
        """Hears reports, begins moves and takes requests in, until all is done."""
        while True:
            if self._reports:
                self._report(self._reports.popleft())
            elif self.carriage.is_asked:
                self._begin_moves()
            elif self._arriving:
                self._take_in(self._arriving.pop(next(iter(self._arriving))))
            else:
                return

    def _report(self, report: events.Event) -> None:
        match report:
            case events.DevicesLost(devices=devices):  # others were given back before
                known = tuple(filter(self._knows, devices))
                self.decide(events.DevicesLost(devices=known))
                for device in devices:  # its id never comes again
                    self.carriage.drop(device)
                    self._since.pop(device, None)
            case _:
                self.decide(report)

    def _take_in(self, ask: words.Ask) -> None:
        self.requests[ask.request] = Placed(ask)
        self.decide(_arrival(ask))

    def _begin_moves(self) -> None:
        for move, mode in self.carriage.begin():
            request = self.requests.get(move.request)
            if request is None:
                continue
            if not self._roll.may_go(move.request, move.target):
                # It was asked for before its front end lost that link.
                self._reports.append(events.MoveAborted(move=move.move))
                continue
            request.pages = max(request.pages, move.pages)
            self.tally.begin_move(move, mode=mode)
            self._control(
                orders.BeginMove(
                    move=move,
                    mode=mode,
                    pages=request.pages,
                    known=request.ask.prompt,
                )
            )

    # -- decisions -----------------------------------------------------------------

    def decide(self, event: events.Event) -> None:
        """Has placement decide, and does what it has decided."""
        self._carry_out(self.machine.step(event))

    def adopt_policy(self, policy: Policy) -> None:
        """Decides by another policy from now on, which must be new."""
        self._carry_out(self.machine.adopt(policy))

    def _carry_out(self, answer: plan.Plan) -> None:
        for decision in answer.decisions:
            self.tally.decide(decision, books=self.machine.ledger.requests)
            self._obey(decision)

    def _obey(self, decision: plan.Decision) -> None:
        match decision:
            case plan.Place():
                self._place(decision)
            case plan.Move():
                self.carriage.ask(decision)
            case plan.Preempt():
                self._control(orders.PreemptRequest(request=decision.request))
            case plan.Activate():
                self._open_group(decision.device, decision.model)
            case plan.Park(device=device):
                self.carriage.close(device)
                self._outbox.send_device(device, words.CloseGroup(device=device))
            case plan.Reject():
                self._refuse(decision)
            case plan.Wait():
                pass

    def _open_group(self, device: DeviceGroupId, model: ModelId) -> None:
        horizon = self._since[device] = self.controller.next_copy_id
        opening = words.OpenGroup(device=device, model=model, horizon=horizon)
        self._outbox.send_device(device, opening)

    def _place(self, decision: plan.Place) -> None:
        request = self.requests.get(decision.request)
        if request is None:
            return  # it is over; the books are about to hear of it
        request.pages = decision.pages
        owner = self.controller.owners.get(decision.request)
        if owner is not None and owner.home is not None:
            self._grant(owner, pages=request.pages)
            return
        self._control(
            orders.StartRequest(
                request=decision.request,
                device=decision.device,
                known=request.ask.prompt,
            )
        )

    def _grant(self, owner: Owner, *, pages: int) -> None:
        if owner.home is not None:
            grant = words.Grant(
                request=owner.request, copy_id=owner.copy_id, pages=pages
            )
            self._outbox.send_device(owner.home, grant)

    def _refuse(self, decision: plan.Reject) -> None:
        request, reason = decision.request, decision.reason.value
        if self.requests.pop(request, None) is not None:
            self._control(orders.End(request=request))
            refused = words.Refused(request=request, reason=reason)
            self._outbox.send_front(request, refused)

    def _control(self, event: orders.ControllerEvent | messages.ToController) -> None:
        for effect in self.controller.step(event):
            match effect:
                case effects.Send():
                    self._send_endpoint(effect)
                case effects.Report():
                    self.tally.end_move(effect.event)
                    self._reports.append(effect.event)
                case effects.Fence():
                    self._fence(effect)
                case effects.Forget(request=request):
                    if request in self._returning:
                        self._arriving[request] = self._returning.pop(request)
                case effects.Deliver():
                    pass  # the front end has these tokens from the source itself

    def _fence(self, fence: effects.Fence) -> None:
        """Tells a front end that a request has no copy; openings tell it the rest."""
        owner = self.controller.owners.get(fence.request)
        if owner is None or owner.home is None:
            disowned = words.Disowned(request=fence.request)
            self._outbox.send_front(fence.request, disowned)

    def _send_endpoint(self, effect: effects.Send) -> None:
        message, device = effect.message, effect.to
        if isinstance(message, words.Ordered):
            order = words.Order(device=device, message=message)
            self._outbox.send_device(device, order)
            return
        assert isinstance(message, words.Opened), f"{message} is no opening"
        host = self._roll.host_of(device)
        request = self.requests.get(message.request)
        if host is None or request is None:
            return  # lost, or over: what follows undoes it
        relayed = words.Relayed(
            epoch=host.epoch,
            device=device,
            since=self._since[device],
            pages=request.pages,
            message=message,
        )
        self._outbox.send_front(message.request, relayed)


def _arrival(ask: words.Ask) -> events.Arrive:
    return events.Arrive(
        request=ask.request,
        pages=ask.pages,
        model=ask.model,
        peak_pages=ask.peak_pages,
        tenant=ask.tenant,
        weight=ask.weight,
    )

"""The conductor carries out decisions on requests of a fleet and passes messages on.

    event -> placement machine -> Place, Move, Preempt, Activate, Park
                 ^                        |
                 |                        v
             committed, aborted <- controller <-> instances (protocol messages)

One queue of messages and one of reports; `settle` empties both. A device whose work
raises is fenced, and its requests start again elsewhere from the tokens they had.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar, cast

import numpy as np
from absl import logging

from mell_jax.engine.fleet import news
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet_instance import FleetInstance, Payload
from mell_jax.engine.fleet.instance_pool import InstancePool
from mell_jax.engine.fleet.moves import Moves
from mell_jax.engine.fleet.profile import Profile
from mell_jax.engine.fleet.request_state import RequestState
from mell_jax.engine.fleet.roster import Roster
from mell_jax.engine.fleet.shadows import Shadows
from mell_jax.engine.fleet.tally import FleetTally
from mell_jax.engine.fleet.ticks import TickRecorder
from mell_jax.engine.fleet.transport import Transport
from mell_jax.engine.frames import Finished, FinishReason, Handle, StepFrame
from mell_jax.engine.new_weights import FIRST
from mell_jax.scheduler.ids import (
    CopyId,
    DeviceGroupId,
    ModelId,
    PageKey,
    RequestId,
    Serial,
)
from mell_jax.scheduler.migration import effects, messages
from mell_jax.scheduler.migration import events as orders
from mell_jax.scheduler.migration.controller import Controller
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.device_seconds import DeviceSeconds
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import Policy
from mell_jax.scheduler.transfer import MoveDemand
from mell_jax.worker.group import DeviceGroup

Result = TypeVar("Result")
DELETED = (
    "the weights that are served were deleted by who shares them, such as by donating "
    "them to a jitted function: give others by an update, before that the next time"
)


class Conductor:
    """The conductor owns requests, roster, placement machine and controller."""

    def __init__(
        self,
        *,
        machine: Machine,
        instance_pool: InstancePool,
        transports: Mapping[ModelId, Transport],
        profile: Profile,
        config: FleetConfig,
        clock: Callable[[], float],
        page_tokens: int,
        shares_prefixes: bool,
    ) -> None:
        self.machine = machine
        self.roster = Roster(
            instance_pool, transports=transports, clock=clock, page_tokens=page_tokens
        )
        self.instances = self.roster.instances
        self.requests: dict[Handle, RequestId] = {}
        self.finished: list[Finished] = []  # since the owner last took them
        self.now_s = 0.0  # of the fleet's clock, as its owner last read it
        self.last_error: Exception | None = None  # that cost a device
        self.controller = Controller()
        self.tally = FleetTally()
        self.ticks = TickRecorder()
        self.in_use = DeviceSeconds()
        self.shadows = Shadows(
            {model: machine.ledger.spec(model) for model in machine.ledger.models},
            policies=config.shadow_policies if len(instance_pool.devices) > 1 else (),
            config=config.policy_config(),
        )
        self._config = config
        self._page_tokens = page_tokens
        self._shares_prefixes = shares_prefixes
        self._moves = Moves(profile, epoch_s=config.epoch_s, mode=config.mode)
        self.generations = dict.fromkeys(machine.ledger.models, FIRST)
        self.away: set[DeviceGroupId] = set()  # withdrawn, until they are readmitted
        self._states: dict[RequestId, RequestState] = {}
        self._asked: set[RequestId] = set()  # for pages that they wait for
        self._post: deque[tuple[DeviceGroupId, messages.Message, Payload]] = deque()
        self._reports: deque[events.Event] = deque()
        for device in instance_pool.devices:
            self.controller.step(orders.AddDevice(device=device))
            self.decide(events.DeviceAdded(device=device))

    # -- for instances -------------------------------------------------------------

    def state(self, request: RequestId) -> RequestState | None:
        return self._states.get(request)

    def group_of(self, device: DeviceGroupId) -> DeviceGroup | None:
        return self.roster.groups[device] if device in self.instances else None

    def is_elsewhere(self, device: DeviceGroupId) -> bool:
        """Returns False: all devices are in this process."""
        return False

    def freed(self, copy_id: CopyId) -> None:
        """Does nothing: the controller hears that a copy was released."""

    def post(
        self, to: DeviceGroupId, message: messages.Message, payload: Payload
    ) -> None:
        if payload is not None:
            self.tally.send(payload.nbytes)
        self._post.append((to, message, payload))

    # -- for the fleet -----------------------------------------------------------

    @property
    def is_opening(self) -> bool:
        """Returns whether an instance is being made ready."""
        return self.roster.is_opening

    @property
    def is_at_rest(self) -> bool:
        """Returns whether it knows of no request at all."""
        return not (self._states or self.requests or self._asked or self._post)

    @property
    def needs_epochs(self) -> bool:
        """Returns whether an epoch can change anything.

        Without requests it can only close an instance too many; the last one of each
        model stays.
        """
        models = [instance.model for instance in self.instances.values()]
        return not self.is_at_rest or len(set(models)) < len(models)

    @property
    def is_lost(self) -> bool:
        """Returns whether no device is left: all have failed, or were given back."""
        ledger = self.machine.ledger
        return not any(
            device in ledger.instances or ledger.is_idle(device)
            for device in self.roster.groups
        )

    def can_lose(self, device: DeviceGroupId) -> bool:
        """Returns whether another device is there, or can be opened, to go on with."""
        ledger = self.machine.ledger
        return any(
            other in ledger.instances or ledger.is_idle(other)
            for other in self.roster.groups
            if other != device
        )

    def see_opened(self) -> None:
        """Tells placement how long instances took that have become ready."""
        for instance, took_s in self.roster.opened():
            self.tally.activation_s += took_s
            news.tell_opened(instance.device, instance.model, took_s=took_s)
            self._moves.target_opens(instance.device, instance.model)
            self.decide(events.Activated(model=instance.model, took_s=took_s))

    def arrive(self, state: RequestState, *, peak_pages: int) -> None:
        self._states[state.id] = state
        self.requests[state.handle] = state.id
        submit = state.template.submit
        self.decide(
            events.Arrive(
                request=state.id,
                pages=state.pages,
                model=state.model,
                peak_pages=peak_pages,
                prefix=self._prefix_of(state),
                tenant=submit.tenant,
                weight=submit.weight,
            )
        )
        self.settle()

    def begin_round(self) -> None:
        """Lets every request begin a move again that has begun one."""
        self._moves.begin_round()

    def tick(self, now_s: float) -> None:
        """Ends an epoch: links have room again, and pages that hang are given up."""
        self._moves.renew()
        for instance in list(self.instances.values()):
            for request in instance.overdue(epochs=self._config.patience_epochs):
                self._call_off_late(request)
        self.decide(events.Tick(now_s=now_s))
        self.settle()

    def wake(self) -> None:
        """Lets placement decide about requests that it has let wait until now."""
        if self.now_s >= self.machine.wake_s:
            self.decide(events.Wake())
            self.settle()

    def ask_for_pages(self, instances: Iterable[FleetInstance]) -> None:
        """Asks for the pages that rows want to go on; a row without one waits."""
        for instance in instances:
            for serial, pages in instance.inner.grants.wanting():
                self._ask_for_page(instance.requests[serial], pages)
        self.settle()

    def guard(self, instance: FleetInstance, do: Callable[[], Result]) -> Result | None:
        """Does something on a device; if that raises, the device is lost.

        Not where who shares its weights has deleted them: its requests are, until there
        are others.
        """
        try:
            return do()
        except Exception as error:  # the edge: whatever a device raises, others go on
            if instance.inner.worker.held.is_deleted:
                self._fail_requests(instance.device)
            else:
                self.fence(instance.device, error)
            return None

    def end(
        self, request: RequestId, *, reason: FinishReason, message: str = ""
    ) -> None:
        """Ends a request that is not over on its own account."""
        handle = self._states[request].handle
        self.forget(request)
        self.finished.append(Finished(handle=handle, reason=reason, message=message))

    def see(self, frame: StepFrame) -> None:
        """Counts what a step has brought."""
        self.tally.see(frame)
        self.ticks.see(frame)

    def forget(self, request: RequestId) -> None:
        """Has the books and the protocol release what a request holds that is over."""
        self._drop(request)
        self._reports.append(events.Finish(request=request))

    def states_of(self, model: ModelId) -> list[RequestState]:
        """Returns the open requests of a model, in the order of their arrival."""
        return [state for state in self._states.values() if state.model == model]

    def call_off(self, request: RequestId) -> None:
        """Calls off what is under way of a request's moves; it stays where it is."""
        owner = self.controller.owners.get(request)
        open_move = owner.move if owner is not None else None
        next_move = owner.next_move if owner is not None else None
        if next_move is not None:
            move = next_move.move.move
            self._control(orders.AbortMove(request=request, move=move))
        if open_move is not None:
            self._control(orders.AbortMove(request=request, move=open_move.id))

    # -- decisions ---------------------------------------------------------------

    def decide(self, event: events.Event) -> None:
        answer = self.machine.step(event, now_s=self.now_s)
        self.shadows.hear(event, answer, now_s=self.now_s)
        self._carry_out(answer)

    def adopt(self, policy: Policy) -> None:
        """Decides by another policy from now on."""
        self._carry_out(self.machine.adopt(policy))

    def _carry_out(self, answer: plan.Plan) -> None:
        self.in_use.count(len(self.machine.ledger.instances), now_s=self.now_s)
        for decision in answer.decisions:
            self._obey(decision)

    def _obey(self, decision: plan.Decision) -> None:
        match decision:
            case plan.Place():
                self._place(decision)
            case plan.Move():
                self._moves.ask(decision)
            case plan.Preempt():
                self.tally.preemptions += 1
                self._capture(decision.request)
                if decision.request in self._states:
                    self.tally.forget(self._states[decision.request].handle)
                self._control(orders.PreemptRequest(request=decision.request))
            case plan.Activate():
                self._activate(decision.device, decision.model)
            case plan.Park():
                self._park(decision.device)
            case plan.Reject():
                self._reject(decision)
            case plan.Wait():
                self.tally.pauses += self._has_home(decision.request)

    def _place(self, decision: plan.Place) -> None:
        state = self._states.get(decision.request)
        if state is None:
            return  # it is over; the books are about to hear of it
        owner = self.controller.owners.get(decision.request)
        if owner is not None and owner.home is not None:
            self._grant(decision.request, decision.pages)
            return
        state.pages = decision.pages
        state.is_mixed = False  # it is computed anew
        self._asked.discard(decision.request)
        self.ticks.follow(
            state.id,
            handle=state.handle,
            device=decision.device,
            tokens=state.num_generated,
        )
        self._control(
            orders.StartRequest(
                request=decision.request,
                device=decision.device,
                known=len(state.tokens),
            )
        )

    def _has_home(self, request: RequestId) -> bool:
        """Returns whether a request that waits lacks pages; or else an instance."""
        known = self.machine.ledger.requests.get(request)
        return known is not None and known.device is not None

    def _begin_moves(self) -> None:
        division = self._moves.divide(self._demand_of)
        self.tally.deferred += len(division.deferred)
        self.tally.violations += division.violations
        for demand, mode in division.begun:
            move = demand.move
            state = self._states[move.request]
            state.pages = max(state.pages, move.pages)
            self.tally.begin_move(move, mode=mode, handle=state.handle)
            self.ticks.begin_move(
                state.id,
                handle=state.handle,
                device=move.source,
                tokens=state.num_generated,
            )
            self._control(
                orders.BeginMove(
                    move=move, mode=mode, pages=state.pages, known=len(state.tokens)
                )
            )

    def _demand_of(self, move: plan.Move) -> MoveDemand | None:
        """Returns what a move needs; None if the books have closed it meanwhile."""
        self._capture(move.request)
        state, ledger = self._states.get(move.request), self.machine.ledger
        if state is None or move.move not in ledger.moves:
            return None
        if move.target not in self.instances:
            return None  # lost, as the books are about to hear
        spec = ledger.spec(ledger.requests[move.request].model)
        target = self.instances[move.target].inner.sequences
        return MoveDemand(
            move=move,
            links=self._moves.links(move),
            tokens=len(state.tokens),
            cached_tokens=target.count_cached(self._prefix_keys(state))
            * self._page_tokens,
            bytes_per_token=_bytes_per_token(spec, tokens=len(state.tokens)),
            is_mixed=state.is_mixed,
        )

    def _call_off_late(self, request: RequestId) -> None:
        known = self.machine.ledger.requests.get(request)
        if known is not None and known.move is not None:
            logging.error(
                "pages of request %d have not arrived in %d epochs: its move is off",
                request,
                self._config.patience_epochs,
            )
            self._control(orders.AbortMove(request=request, move=known.move))

    def _grant(self, request: RequestId, pages: int) -> None:
        self._asked.discard(request)
        state = self._states.get(request)
        if state is None:
            return
        state.pages = max(state.pages, pages)
        owner = self.controller.owners.get(request)
        if owner is None or owner.home not in self.instances:
            return
        instance, serial = self.instances[owner.home], Serial(owner.copy_id)
        if instance.inner.knows(serial):
            instance.inner.grants.grant(serial, pages=state.pages)

    def _capture(self, request: RequestId) -> None:
        """Keeps the tokens that a request has by now, to start it elsewhere."""
        state, owner = self._states.get(request), self.controller.owners.get(request)
        if state is None or owner is None or owner.home not in self.instances:
            return
        instance, serial = self.instances[owner.home].inner, Serial(owner.copy_id)
        if instance.knows(serial):
            tokens = instance.sequences.tokens_since(serial, 0)
            if len(tokens) > len(state.tokens):
                state.tokens = tokens

    def _reject(self, decision: plan.Reject) -> None:
        handle = self._states[decision.request].handle
        self._drop(decision.request)  # the books have forgotten it
        self.finished.append(
            Finished(
                handle=handle,
                reason=FinishReason.ERROR,
                message=decision.reason.value,
            )
        )

    def _prefix_of(self, state: RequestState) -> tuple[events.Cached, ...]:
        """Returns how much of a new request's prompt is cached, by device."""
        if len(self.roster.groups) == 1:
            return ()  # there is no choice
        keys = self._prefix_keys(state)
        found = (
            events.Cached(
                device=device, pages=instance.inner.sequences.held_cached(keys)
            )
            for device, instance in self.instances.items()
            if instance.model == state.model
        )
        return tuple(cached for cached in found if cached.pages)

    def _prefix_keys(self, state: RequestState) -> list[PageKey]:
        if not self._shares_prefixes:
            return []
        generation = self.generations[state.model].number
        return state.prefix_keys(page_tokens=self._page_tokens, generation=generation)

    def _ask_for_page(self, request: RequestId, pages: int) -> None:
        known = self.machine.ledger.requests.get(request)
        if known is None or known.device is None or request in self._asked:
            return  # preempted by now, or asked for already
        if known.pages < pages:
            self._asked.add(request)
            self.decide(events.Grow(request=request, pages=pages))
        if request in self._states and known.pages >= pages:
            self._grant(request, known.pages)

    # -- devices -----------------------------------------------------------------

    def _activate(self, device: DeviceGroupId, model: ModelId) -> None:
        if device in self.away:
            return  # the books are about to hear of it
        self.tally.activations += 1
        horizon = self.controller.next_copy_id
        try:
            self.roster.open(device, model, horizon=horizon, context=self)
            self.instances[device].inner.turn(self.generations[model])
        except RuntimeError as error:  # no memory, or a device that has gone
            self.last_error = error
            news.tell_fenced(device, what="cannot be opened")
            self._lose(device)

    def _park(self, device: DeviceGroupId) -> None:
        if device in self.away:
            return
        self._deliver_all()  # what it is still to release
        self._moves.target_closes(device)
        instance = self.roster.close(device)
        self.tally.close(instance.inner.load())
        news.tell_parked(device, instance.model)

    def withdraw(self) -> None:
        """Parks all instances and takes no device, until they are readmitted.

        Nothing may be computing. Requests keep their tokens and wait for a place.
        """
        ledger = self.machine.ledger
        self.away |= {
            device
            for device in self.roster.groups
            if device in self.instances or ledger.is_idle(device)
        }
        draining = {device for device in self.away if self.machine.is_draining(device)}
        for device in list(self.instances):
            self._leave(device)
            instance = self.roster.close(device)
            self.tally.close(instance.inner.load())
            news.tell_parked(device, instance.model)
        for device in self.away:
            self._control(orders.LoseDevice(device=device))
        while self._reports:
            self.decide(self._reports.popleft())
        for device in sorted(self.away, key=ledger.is_idle, reverse=True):
            if device in ledger.instances or ledger.is_idle(device):
                self.decide(events.DeviceLost(device=device))
        self.settle()
        for device in draining:  # they do not come back with the others
            self.controller.step(orders.AddDevice(device=device))
            self.away.discard(device)

    def readmit(self) -> None:
        """Takes the devices again that were withdrawn."""
        back, self.away = self.away, set()
        for device in sorted(back):
            self.controller.step(orders.AddDevice(device=device))
            self.decide(events.DeviceAdded(device=device))
        self.settle()

    def fence(self, device: DeviceGroupId, error: Exception) -> None:
        """Never uses a device again; its requests start again elsewhere."""
        self.last_error = error
        news.tell_fenced(device, what="failed")
        self._lose(device)

    def _leave(self, device: DeviceGroupId) -> list[RequestId]:
        """Keeps what is known of the requests of a device that goes; returns them."""
        lost = [
            request
            for request, owner in self.controller.owners.items()
            if owner.home == device and request in self._states
        ]
        for request in lost:
            self._capture(request)
            self.tally.forget(self._states[request].handle)
        self._moves.target_closes(device)
        return lost

    def _lose(self, device: DeviceGroupId) -> None:
        """Fences a device; its requests start again elsewhere from their tokens."""
        lost = self._leave(device)
        instance = self.roster.fence(device)
        self.tally.lose(instance.inner.load() if instance is not None else None)
        self._control(orders.LoseDevice(device=device))
        self._reports.append(events.DeviceLost(device=device))
        for request in lost:
            state = self._states[request]
            state.replays += 1
            self.tally.replays += 1
            if state.replays > self._config.replay_limit:
                message = f"lost with its device {state.replays} times"
                self.end(request, reason=FinishReason.ERROR, message=message)

    def _fail_requests(self, device: DeviceGroupId) -> None:
        """Ends the requests of a device that has no weights to compute them with."""
        logging.error("device %d: %s", device, DELETED, exc_info=True)
        for request, owner in list(self.controller.owners.items()):
            if owner.home == device and request in self._states:
                self.end(request, reason=FinishReason.ERROR, message=DELETED)
        self.settle()

    def _drop(self, request: RequestId) -> None:
        state = self._states.pop(request)
        del self.requests[state.handle]
        self.tally.forget(state.handle)
        self.ticks.end(state.handle)
        self._asked.discard(request)
        self._control(orders.End(request=request))

    # -- passing on --------------------------------------------------------------

    def _control(self, event: orders.ControllerEvent | messages.ToController) -> None:
        for effect in self.controller.step(event):
            match effect:
                case effects.Send():
                    self._post.append((effect.to, effect.message, None))
                case effects.Report():
                    self._mark_move(effect.event)
                    if (aborted := self.tally.end_move(effect.event)) is not None:
                        news.tell_aborted(aborted)
                    self._reports.append(effect.event)
                case effects.Deliver():
                    self._learn(effect)
                case effects.Fence() | effects.Forget():
                    pass  # in one process no token of an older copy can come

    def _mark_move(self, event: events.Event) -> None:
        """Notes on a stream that it has moved; its books are about to hear of it."""
        if isinstance(event, events.MoveCommitted):
            open_move = self.machine.ledger.moves.get(event.move)
            if open_move is not None and open_move.request.id in self._states:
                self.ticks.commit_move(
                    self._states[open_move.request.id].handle,
                    source=open_move.source,
                    target=open_move.target,
                )

    def settle(self) -> None:
        """Passes messages and reports on, and begins moves, until there are none."""
        self._deliver_all()
        while self._reports or self._moves.is_asked:
            if self._reports:
                self.decide(self._reports.popleft())
            else:
                self._begin_moves()
            self._deliver_all()

    def hear_reports(self) -> None:
        """Passes messages and reports on as `settle` does, and begins no moves."""
        self._deliver_all()
        while self._reports:
            self.decide(self._reports.popleft())
            self._deliver_all()

    def _deliver_all(self) -> None:
        while self._post:
            to, message, payload = self._post.popleft()
            if to == messages.CONTROLLER:
                self._control(cast(messages.ToController, message))
            elif to in self.instances:
                instance, said = self.instances[to], cast(messages.ToEndpoint, message)
                self.guard(instance, partial(instance.deliver, said, payload))

    def _learn(self, effect: effects.Deliver) -> None:
        """Keeps the tokens that a source had when its row stopped."""
        state = self._states.get(effect.request)
        if state is not None:
            tail = np.array(effect.tokens, np.int32)
            state.tokens = np.concatenate([state.tokens[: effect.since], tail])
            if len(state.tokens) > len(state.template.submit.prompt):
                self.tally.stop_row(state.handle)


def _bytes_per_token(spec: ModelSpec, *, tokens: int) -> float:
    """KV bytes of a sequence's pages for each of its tokens."""
    return spec.cache.held_by(tokens) * spec.page_bytes / max(tokens, 1)

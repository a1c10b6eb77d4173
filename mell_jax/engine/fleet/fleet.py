"""The engine of a fleet: many instances, one thread, MELL in charge.

    submit ---> placement machine ---> Place, Move, Activate ... ---> members
                 ^   ^                                                   |
      growth ----'   '--- committed, aborted --- migration controller <--'

It offers what `Engine` offers. Each `step` asks for the pages that rows want next,
launches a step on every instance, brings in the step before of every instance, and
passes on what the protocol has to say until all is quiet.
"""

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, cast

import numpy as np
from absl import logging

from mell_jax.engine.core import refusal, resolve
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.frames import merge_frames, sum_loads
from mell_jax.engine.fleet.live import Live
from mell_jax.engine.fleet.member import Member, Payload
from mell_jax.engine.fleet.transport import Transport
from mell_jax.engine.frames import (
    Abort,
    EngineInfo,
    EngineLoad,
    Finished,
    FinishReason,
    Handle,
    StepFrame,
    Submit,
)
from mell_jax.engine.instance import Instance
from mell_jax.engine.params import InvalidRequestError
from mell_jax.engine.validate import check_submit
from mell_jax.scheduler.ids import DeviceId, ModelId, RequestId, Serial
from mell_jax.scheduler.migration import effects, messages
from mell_jax.scheduler.migration import events as orders
from mell_jax.scheduler.migration.controller import Controller
from mell_jax.scheduler.migration.instance import Instance as Endpoint
from mell_jax.scheduler.migration.source import Limits
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.transfer import Mode
from mell_jax.worker.group import DeviceGroup


class Workshop(Protocol):
    """Makes instances ready to run, compiled long before."""

    @property
    def devices(self) -> Mapping[DeviceId, DeviceGroup]: ...

    def open(self, device: DeviceId, model: ModelId) -> Instance: ...

    def close(self, device: DeviceId) -> None: ...


class Fleet:
    """Runs one model on several device groups.

    Args:
      info: of the model, with what one instance holds.
      machine: decides where everything runs; new.
      workshop: the device groups and their instances.
      transport: how pages get from one group to another.
      clock: seconds; only epochs depend on it.
    """

    def __init__(
        self,
        *,
        info: EngineInfo,
        model: ModelId,
        machine: Machine,
        workshop: Workshop,
        transport: Transport,
        clock: Callable[[], float],
        config: FleetConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.info = info
        self.machine = machine
        self.members: dict[DeviceId, Member] = {}
        self._model = model
        self._workshop = workshop
        self._transport = transport
        self._clock = clock
        self._config = config or FleetConfig()
        self._controller = Controller()
        self._live: dict[RequestId, Live] = {}
        self._requests: dict[Handle, RequestId] = {}
        self._finished: list[Finished] = []
        self._post: deque[tuple[DeviceId, messages.Message, Payload]] = deque()
        self._reports: deque[events.Event] = deque()
        self._asked: set[RequestId] = set()  # for pages that they wait for
        self._next_request = 0
        self._rng = np.random.default_rng(seed)
        self._start_s = self._tick_s = clock()
        for device in workshop.devices:
            self._controller.step(orders.DeviceAdded(device=device))
            self._decide(events.DeviceAdded(device=device))

    # -- what a front end may say ------------------------------------------------

    def submit(self, submit: Submit) -> None:
        """Takes a request in; one that breaks a rule is answered in the next frame."""
        try:
            check_submit(submit, info=self.info)
            if submit.handle in self._requests:
                raise InvalidRequestError("handle", f"{submit.handle} is in use")
        except InvalidRequestError as error:
            self._finished.append(refusal(submit, error))
            return
        request = RequestId(self._next_request)
        self._next_request += 1
        template = resolve(submit, serial=Serial(-1), info=self.info, rng=self._rng)
        live = Live(request, template=template)
        live.pages = self._pages(len(submit.prompt))
        self._live[request] = live
        self._requests[submit.handle] = request
        self._decide(
            events.Arrive(
                request=request,
                pages=live.pages,
                model=self._model,
                peak_pages=self._pages(template.limit),
            )
        )
        self._settle()

    def abort(self, abort: Abort) -> None:
        """Frees the pages of these sequences now; unknown handles are ignored."""
        for handle in abort.handles:
            request = self._requests.get(handle)
            if request is not None:
                self._end(request, reason=FinishReason.ABORT)
        self._settle()

    # -- the loop ----------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return bool(self._finished) or any(
            member.instance.has_work or member.is_busy
            for member in self.members.values()
        )

    @property
    def idle_wait_s(self) -> float | None:
        """How long to wait for messages without work; None: until one comes."""
        return self._config.epoch_s if self.members else None

    def step(self) -> StepFrame | None:
        """One step of every instance; None when nothing is to be said."""
        self._tick_if_due()
        self._ask_for_pages()
        self._launch()
        if self._config.move_always:
            self._move_everything()
        frames = self._land()
        self._settle()
        if self._finished:
            done, self._finished = tuple(self._finished), []
            frames.append(_frame_of(done))
        return merge_frames(frames)

    def load(self, *, compilations: int = 0) -> EngineLoad:
        """How busy all instances are together."""
        loads = [
            member.instance.load(compilations=compilations)
            for member in self.members.values()
        ]
        return sum_loads(loads, waiting=self.machine.waiting, compilations=compilations)

    # -- for members -------------------------------------------------------------

    def live(self, request: RequestId) -> Live | None:
        return self._live.get(request)

    def group_of(self, device: DeviceId) -> DeviceGroup | None:
        return self._workshop.devices[device] if device in self.members else None

    def post(self, to: DeviceId, message: messages.Message, payload: Payload) -> None:
        self._post.append((to, message, payload))

    # -- steps -------------------------------------------------------------------

    def _launch(self) -> None:
        for member in list(self.members.values()):
            self._guard(member, member.instance.launch)

    def _land(self) -> list[StepFrame]:
        frames: list[StepFrame] = []
        for member in list(self.members.values()):
            frame = self._guard(member, member.instance.land)
            if member.device not in self.members:
                continue  # its step failed: what it would have said does not count
            if frame is not None:
                frames.append(frame)
            for serial in member.instance.ended:
                self._forget(member.requests[serial])
            self._guard(member, member.look_around)
            member.instance.ended.clear()
        return frames

    def _guard(
        self, member: Member, do: Callable[[], StepFrame | None]
    ) -> StepFrame | None:
        """Does something on a device; if that raises, the device is lost."""
        try:
            return do()
        except Exception:  # the edge: whatever a device raises, the others go on
            logging.exception("device %d failed and is fenced", member.device)
            self._lose(member)
            return None

    def _tick_if_due(self) -> None:
        now_s = self._clock()
        if now_s - self._tick_s >= self._config.epoch_s:
            self._tick_s = now_s
            self._decide(events.Tick(now_s=now_s - self._start_s))
            self._settle()

    def _ask_for_pages(self) -> None:
        """Asks for the pages that rows want to go on; a row without one waits."""
        for member in list(self.members.values()):
            for serial, pages in member.instance.movable.wanting():
                self._ask_for_page(member.requests[serial], pages + 1)
        self._settle()

    def _ask_for_page(self, request: RequestId, pages: int) -> None:
        known = self.machine.ledger.requests.get(request)
        if known is None or known.device is None or request in self._asked:
            return  # preempted by now, or asked for already
        if known.pages < pages:
            self._asked.add(request)
            self._decide(events.Grow(request=request, pages=pages))
        if request in self._live and known.pages >= pages:
            self._grant(request, known.pages)

    def _move_everything(self) -> None:
        """Every request goes to the next device that is there."""
        devices = list(self.members)
        ledger = self.machine.ledger
        for request in list(ledger.requests.values()):
            if request.device not in self.members or request.move is not None:
                continue
            at = devices.index(request.device)
            for other in devices[at + 1 :] + devices[:at]:
                self._decide(events.Relocate(request=request.id, device=other))
                if request.move is not None:
                    break
        self._settle()

    # -- decisions ---------------------------------------------------------------

    def _decide(self, event: events.Event) -> None:
        self._obey_all(self.machine.step(event))

    def _obey_all(self, answer: plan.Plan) -> None:
        for decision in answer.decisions:
            self._obey(decision)

    def _obey(self, decision: plan.Decision) -> None:
        match decision:
            case plan.Place():
                self._place(decision)
            case plan.Move():
                self._move(decision)
            case plan.Preempt():
                self._capture(decision.request)
                self._control(orders.Preempt(request=decision.request))
            case plan.Activate():
                self._activate(decision.device, decision.model)
            case plan.Park():
                self._park(decision.device)
            case plan.Reject():
                self._fail(decision.request, message=decision.reason.value)
            case plan.Wait():
                pass  # it has no pages to go on with, or no home

    def _place(self, decision: plan.Place) -> None:
        live = self._live.get(decision.request)
        if live is None:
            return  # it is over; the books are about to hear of it
        owner = self._controller.owners.get(decision.request)
        if owner is not None and owner.home is not None:
            self._grant(decision.request, decision.pages)
            return
        live.pages = decision.pages
        self._asked.discard(decision.request)
        self._control(
            orders.Place(
                request=decision.request,
                device=decision.device,
                known=len(live.tokens),
            )
        )

    def _move(self, decision: plan.Move) -> None:
        self._capture(decision.request)
        live = self._live.get(decision.request)
        if live is None:
            self._reports.append(events.MoveAborted(move=decision.move))
            return
        live.pages = max(live.pages, decision.pages)
        self._control(
            orders.Move(
                move=decision.move,
                request=decision.request,
                target=decision.target,
                mode=self._config.mode or Mode.KV,
                pages=decision.pages,
                known=len(live.tokens),
                is_urgent=decision.is_urgent,
            )
        )

    def _grant(self, request: RequestId, pages: int) -> None:
        self._asked.discard(request)
        live = self._live.get(request)
        if live is None:
            return
        live.pages = max(live.pages, pages)
        owner = self._controller.owners.get(request)
        if owner is None or owner.home not in self.members:
            return
        member, serial = self.members[owner.home], Serial(owner.epoch)
        if member.instance.knows(serial):
            member.instance.movable.grant(serial, pages=live.pages)

    def _capture(self, request: RequestId) -> None:
        """Keeps the tokens that a request has by now, to start it elsewhere."""
        live, owner = self._live.get(request), self._controller.owners.get(request)
        if live is None or owner is None or owner.home not in self.members:
            return
        instance, serial = self.members[owner.home].instance, Serial(owner.epoch)
        if instance.knows(serial):
            tokens = instance.movable.tokens_since(serial, 0)
            if len(tokens) > len(live.tokens):
                live.tokens = tokens

    # -- coming and going --------------------------------------------------------

    def _activate(self, device: DeviceId, model: ModelId) -> None:
        instance = self._workshop.open(device, model)
        endpoint = Endpoint(
            device,
            limits=Limits(page_tokens=self.info.page_tokens),
            horizon=self._controller.next_epoch,
        )
        self.members[device] = Member(
            device,
            instance,
            model=model,
            endpoint=endpoint,
            transport=self._transport,
            office=self,
            page_tokens=self.info.page_tokens,
        )

    def _park(self, device: DeviceId) -> None:
        self._deliver_all()  # what it is still to release
        del self.members[device]
        self._workshop.close(device)

    def _end(self, request: RequestId, *, reason: FinishReason) -> None:
        """A request that is not over on its own account."""
        handle = self._live[request].handle
        self._forget(request)
        self._finished.append(Finished(handle=handle, reason=reason))

    def _fail(self, request: RequestId, *, message: str) -> None:
        live = self._live.pop(request)
        del self._requests[live.handle]
        self._asked.discard(request)
        self._control(orders.End(request=request))
        self._finished.append(
            Finished(handle=live.handle, reason=FinishReason.ERROR, message=message)
        )

    def _forget(self, request: RequestId) -> None:
        """A request is over: the books and the protocol release what it holds."""
        live = self._live.pop(request)
        del self._requests[live.handle]
        self._asked.discard(request)
        self._control(orders.End(request=request))
        self._reports.append(events.Finish(request=request))

    def _lose(self, member: Member) -> None:
        """Fences a device; its requests start again elsewhere from their tokens."""
        device = member.device
        lost: list[RequestId] = []
        for request in self._live:
            owner = self._controller.owners.get(request)
            if owner is not None and owner.home == device:
                self._capture(request)
                lost.append(request)
        del self.members[device]
        self._workshop.close(device)
        self._control(orders.DeviceLost(device=device))
        self._reports.append(events.DeviceLost(device=device))
        for request in lost:
            live = self._live[request]
            live.replays += 1
            if live.replays > self._config.replay_limit:
                handle = live.handle
                self._forget(request)
                self._finished.append(
                    Finished(
                        handle=handle,
                        reason=FinishReason.ERROR,
                        message=f"lost with its device {live.replays} times",
                    )
                )

    # -- passing on --------------------------------------------------------------

    def _control(self, event: orders.ControllerEvent | messages.ToController) -> None:
        for effect in self._controller.step(event):
            match effect:
                case effects.Send():
                    self._post.append((effect.to, effect.message, None))
                case effects.Report():
                    self._reports.append(effect.event)
                case effects.Deliver():
                    self._learn(effect)
                case effects.Fence() | effects.Forget():
                    pass  # in one process no token of an older copy can come

    def _settle(self) -> None:
        """Passes messages and reports on until there are none."""
        self._deliver_all()
        while self._reports:
            self._decide(self._reports.popleft())
            self._deliver_all()

    def _deliver_all(self) -> None:
        while self._post:
            to, message, payload = self._post.popleft()
            if to == messages.CONTROLLER:
                self._control(cast(messages.ToController, message))
            elif to in self.members:
                member, said = self.members[to], cast(messages.ToInstance, message)
                self._guard(member, partial(member.deliver, said, payload))

    def _learn(self, effect: effects.Deliver) -> None:
        """Keeps the tokens that a source had when its row stopped."""
        live = self._live.get(effect.request)
        if live is not None:
            tail = np.array(effect.tokens, np.int32)
            live.tokens = np.concatenate([live.tokens[: effect.since], tail])

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self.info.page_tokens)


def _frame_of(finished: tuple[Finished, ...]) -> StepFrame:
    return StepFrame(
        handles=np.zeros(0, np.int64), tokens=np.zeros(0, np.int32), finished=finished
    )

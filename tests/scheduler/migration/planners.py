"""Who orders placements and moves: at random, or the placement machine."""

import random
from collections.abc import Callable
from typing import Protocol

from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.migration import events
from mell_jax.scheduler.migration.controller import Controller
from mell_jax.scheduler.placement import events as placement_events
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.transfer import Mode
from tests.scheduler.migration.jobs import SIZE, Job, ViolationError
from tests.scheduler.migration.loop import begin_move

MoveEnd = placement_events.MoveCommitted | placement_events.MoveAborted


class Desk(Protocol):
    """Where orders are handed in, and what they need to know."""

    rng: random.Random
    controller: Controller
    jobs: dict[RequestId, Job]
    now: float

    def order(self, event: events.ControllerEvent) -> None: ...

    def known(self, request: RequestId) -> int: ...


class Planner(Protocol):
    """Hears what happens and gives orders."""

    moves: dict[MoveId, RequestId]

    def arrive(self, request: RequestId) -> None: ...
    def end(self, request: RequestId) -> None: ...
    def added(self, device: DeviceGroupId) -> None: ...
    def lost(self, device: DeviceGroupId) -> None: ...
    def report(self, event: MoveEnd) -> None: ...
    def may_grow(self, request: RequestId, pages: int) -> bool: ...
    def tick(self) -> None: ...
    def check(self) -> None: ...
    def check_end(self) -> None: ...


class RandomPlanner:
    """Any device, any move, at any time."""

    def __init__(self, desk: Desk) -> None:
        self.moves: dict[MoveId, RequestId] = {}
        self._desk = desk
        self._devices: list[DeviceGroupId] = []
        self._next_move = 0
        self._move_rate = desk.rng.choice([0.3, 0.8])

    def arrive(self, request: RequestId) -> None:
        self._place(request)

    def end(self, request: RequestId) -> None:
        pass

    def added(self, device: DeviceGroupId) -> None:
        self._devices.append(device)

    def lost(self, device: DeviceGroupId) -> None:
        self._devices.remove(device)

    def report(self, event: MoveEnd) -> None:
        del self.moves[event.move]

    def may_grow(self, request: RequestId, pages: int) -> bool:
        return True

    def tick(self) -> None:
        desk = self._desk
        owners = list(desk.controller.owners.values())
        for owner in owners:
            if owner.home is None and not owner.is_over:
                self._place(owner.request)
            elif desk.rng.random() < self._move_rate:
                self._disturb(owner.request)

    def check(self) -> None:
        pass

    def check_end(self) -> None:
        pass

    def _place(self, request: RequestId) -> None:
        if self._devices:
            self._desk.order(
                events.StartRequest(
                    request=request,
                    device=self._desk.rng.choice(self._devices),
                    known=self._desk.known(request),
                )
            )

    def _disturb(self, request: RequestId) -> None:
        """A move; or one is called off; or the request loses its pages."""
        desk = self._desk
        what = desk.rng.random()
        if what < 0.06:
            desk.order(events.PreemptRequest(request=request))
        elif what < 0.12:
            for move, moved in self.moves.items():
                if moved == request:
                    desk.order(events.AbortMove(request=request, move=move))
        elif self._devices:
            move = MoveId(self._next_move)
            self._next_move += 1
            self.moves[move] = request
            known = desk.known(request)
            desk.order(
                begin_move(
                    move,
                    request=request,
                    target=desk.rng.choice(self._devices),
                    mode=desk.rng.choice([Mode.KV, Mode.KV, Mode.TOKENS]),
                    pages=-(-known // SIZE) + desk.rng.choice([0, 0, 1]),
                    known=known,
                    is_urgent=desk.rng.random() < 0.5,
                )
            )


class PlacementPlanner:
    """The placement machine under `consolidate`, obeyed as the engine will."""

    def __init__(self, desk: Desk, *, capacity_pages: int) -> None:
        spec = ModelSpec(
            capacity_pages=capacity_pages, growth_pages_per_s=1 / SIZE, page_tokens=SIZE
        )
        policy = POLICIES["consolidate"](PolicyConfig(look_s=desk.rng.choice([0, 2])))
        self.machine = Machine(
            models={placement_events.ONLY_MODEL: spec}, policy=policy
        )
        self.moves: dict[MoveId, RequestId] = {}
        self._desk = desk
        self._granted: dict[RequestId, int] = {}  # pages
        self._has_changed = True
        self._asked: set[RequestId] = set()  # to grow, and told to wait
        self._obeys: dict[type, Callable[..., None]] = {
            plan.Place: self._place,
            plan.Move: self._move,
            plan.Preempt: self._preempt,
        }

    def arrive(self, request: RequestId) -> None:
        job = self._desk.jobs[request]
        pages = self._granted[request] = -(-job.prompt // SIZE)
        self._tell(
            placement_events.Arrive(
                request=request, pages=pages, peak_pages=job.max_pages
            )
        )

    def end(self, request: RequestId) -> None:
        self._asked.discard(request)
        self._tell(placement_events.Finish(request=request))

    def added(self, device: DeviceGroupId) -> None:
        self._tell(placement_events.DeviceAdded(device=device))

    def lost(self, device: DeviceGroupId) -> None:
        self._tell(placement_events.DeviceLost(device=device))

    def report(self, event: MoveEnd) -> None:
        del self.moves[event.move]
        self._tell(event)

    def may_grow(self, request: RequestId, pages: int) -> bool:
        if pages <= self._granted[request]:
            return True
        known = self.machine.ledger.requests.get(request)
        if request in self._asked or known is None or known.device is None:
            return False
        self._asked.add(request)
        self._has_changed = True
        self._granted[request] = pages
        answer = self.machine.step(placement_events.Grow(request=request, pages=pages))
        if plan.Wait(request=request) in answer.decisions:
            self._granted[request] = known.pages
        else:
            self._asked.discard(request)
        self._obey(answer)
        return request not in self._asked and self._granted[request] >= pages

    def tick(self) -> None:
        self._tell(placement_events.Tick(now_s=self._desk.now))

    def check(self) -> None:
        """The books balance, and agree with the owner records where all is settled."""
        ledger = self.machine.ledger
        if self._has_changed:
            self._has_changed = False
            ledger.check()
        for owner in self._desk.controller.owners.values():
            request = ledger.requests.get(owner.request)
            if request is None or request.move is not None or owner.closing:
                continue
            if owner.move is None and owner.home != request.device:
                raise ViolationError(f"{owner.home} in fact, {request.device} in books")

    def check_end(self) -> None:
        ledger = self.machine.ledger
        if ledger.requests or ledger.moves or self.machine.waiting:
            raise ViolationError("the placement machine is not at rest")

    def _tell(self, event: placement_events.Event) -> None:
        self._has_changed = True
        self._obey(self.machine.step(event))

    def _obey(self, answer: plan.Plan) -> None:
        for decision in answer.decisions:
            obey = self._obeys.get(type(decision))
            if obey is not None:
                obey(decision)

    def _place(self, decision: plan.Place) -> None:
        self._granted[decision.request] = decision.pages
        if decision.request in self._asked:  # it was paused where it is
            self._asked.discard(decision.request)
            return
        self._desk.order(
            events.StartRequest(
                request=decision.request,
                device=decision.device,
                known=self._desk.known(decision.request),
            )
        )

    def _preempt(self, decision: plan.Preempt) -> None:
        self._asked.discard(decision.request)
        self._desk.order(events.PreemptRequest(request=decision.request))

    def _move(self, decision: plan.Move) -> None:
        self.moves[decision.move] = decision.request
        self._desk.order(
            events.BeginMove(
                move=decision,
                mode=self._desk.rng.choice([Mode.KV, Mode.TOKENS]),
                pages=decision.pages,
                known=self._desk.known(decision.request),
            )
        )

"""One seed, one schedule: instances, controller, planner and a client under faults.

    jobs -> planner -> orders -> Controller <-> network <-> FakeInstance (Instance)
                         ^                         |  late, lost, doubled
                         '---- reports ------------'--> streams

After every event: pages are conserved on every device, at most one device decodes a
request, every stream holds its right tokens. At rest: nothing is lost, nothing held.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.controller import Controller
from mell_jax.scheduler.migration.endpoint import Endpoint
from mell_jax.scheduler.migration.source import StagingLimits
from mell_jax.scheduler.migration.stream import TokenStream
from tests.scheduler.migration.fake_instance import (
    Acknowledged,
    FakeInstance,
    Frame,
    Holding,
    Packet,
    Payload,
)
from tests.scheduler.migration.jobs import SIZE, Job, ViolationError
from tests.scheduler.migration.planners import (
    PlacementPlanner,
    Planner,
    RandomPlanner,
)

TICK = 4.0  # steps between two `Resend`s
LIMIT = 1500.0
MAX_ORDERS = 200  # that one event may lead to
MAX_REQUEST_PAGES = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The pieces under test; a broken one must be found out."""

    controller: type[Controller] = Controller
    instance: type[Endpoint] = Endpoint
    stream: type[TokenStream] = TokenStream
    fake: type[FakeInstance] = FakeInstance


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong in a schedule."""

    loss: float
    doubling: float
    slow: float  # most extra delay of one message in eight; 0: all arrive in order
    crashes: int
    cancels: float

    @classmethod
    def draw(cls, rng: random.Random) -> "Faults":
        if rng.random() < 0.15:  # as in one process
            return cls(
                loss=0, doubling=0, slow=0, crashes=rng.choice([0, 1]), cancels=0
            )
        return cls(
            loss=rng.choice([0, 0.03, 0.15]),
            doubling=rng.choice([0, 0.05, 0.2]),
            slow=rng.choice([0.5, 3, 12]),
            crashes=rng.choice([0, 0, 1, 2]),
            cancels=rng.choice([0, 0.15]),
        )


def draw_jobs(rng: random.Random) -> dict[RequestId, Job]:
    jobs = {}
    for number in range(rng.randint(3, 5)):
        prompt = rng.randint(1, 9)
        job = Job(
            request=RequestId(number),
            prompt=prompt,
            output=rng.randint(1, 24),
            group=rng.randint(0, 1),
            shared=rng.choice([0, prompt // SIZE * SIZE]),
        )
        jobs[job.request] = job
    return jobs


class Simulation:
    """A fleet of three devices and its faults."""

    def __init__(self, seed: int, *, parts: Parts | None = None) -> None:
        self.rng = rng = random.Random(seed)
        self.parts = parts or Parts()
        self.now = 0.0
        self.num_events = 0
        self.counts: Counter[str] = Counter()
        self.faults = Faults.draw(rng)
        self.jobs = draw_jobs(rng)
        self.controller = self.parts.controller()
        self.instances: dict[DeviceGroupId, FakeInstance] = {}
        self.zombies: list[FakeInstance] = []  # fenced, and not aware of it
        self.streams: dict[RequestId, TokenStream] = {}
        self.over: set[RequestId] = set()
        self._pages = rng.randint(MAX_REQUEST_PAGES, 28)
        self._limits = StagingLimits(
            page_tokens=SIZE,
            max_stages=rng.randint(1, 3),
            tail_pages=rng.randint(1, 2),
            piece_pages=(None, 1, 2)[seed % 3],
        )
        self._places = rng.random() < 0.3  # by the placement machine
        self._writes_late = rng.random() < 0.5
        self.planner: Planner = RandomPlanner(self)
        if self._places:
            self.planner = PlacementPlanner(self, capacity_pages=self._pages)
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]]
        self._queue = []
        self._sent = 0
        self._orders: deque[events.ControllerEvent] = deque()
        self._begin()

    def _begin(self) -> None:
        rng = self.rng
        for number in range(3):
            self._add_device(DeviceGroupId(number))
        for request in self.jobs:
            at = rng.random() * 6
            self._later(at, self._arrive, request)
            if rng.random() < self.faults.cancels:
                self._later(at + rng.random() * 20, self._finish, request, "cancelled")
        for _ in range(self.faults.crashes):
            self._later(1 + rng.random() * 20, self._crash)
        self._later(TICK, self._tick)
        self._later(1.0, self._step)

    def run(self) -> None:
        """Until all is at rest.

        Raises:
          ViolationError: something happened that must not.
        """
        while not self._is_at_rest():
            self._next()
            if self.now > LIMIT:
                raise ViolationError(f"no rest: {self.controller.owners.keys()}")
        while self._queue:  # what is late must not stir anything up
            self._next()
        self._check_end()

    def _next(self) -> None:
        self.now, _, function, arguments = heapq.heappop(self._queue)
        function(*arguments)
        num_orders = 0
        while self._orders:
            self._carry(self.controller.step(self._orders.popleft()))
            num_orders += 1
            if num_orders > MAX_ORDERS:
                raise ViolationError("orders give rise to orders without end")
        self.num_events += 1
        self._check()

    def _later(
        self, delay: float, function: Callable[..., None], *arguments: object
    ) -> None:
        self._sent += 1
        heapq.heappush(self._queue, (self.now + delay, self._sent, function, arguments))

    # Network.

    def send(self, to: DeviceGroupId, packet: Packet, payload: Payload = None) -> None:
        faults, rng = self.faults, self.rng
        if faults.slow == 0:
            self._later(0.01, self._deliver, to, packet, payload)
            return
        if rng.random() < faults.loss:
            return
        for _ in range(2 if rng.random() < faults.doubling else 1):
            delay = 0.05 + 0.4 * rng.random()
            if rng.random() < 0.125:
                delay += faults.slow * rng.random()
            self._later(delay, self._deliver, to, packet, payload)

    def _deliver(self, to: DeviceGroupId, packet: Packet, payload: Payload) -> None:
        if to != messages.CONTROLLER:
            instance = self.instances.get(to)
            if instance is not None:
                instance.deliver(packet, payload)
        elif isinstance(packet, Frame):
            self._hear(packet)
        else:
            message = cast(messages.ToController, packet)
            self._carry(self.controller.step(message))

    # The controller's side.

    def order(self, event: events.ControllerEvent) -> None:
        self._orders.append(event)

    def known(self, request: RequestId) -> int:
        stream = self.streams.get(request)
        return self.jobs[request].prompt + (stream.count if stream is not None else 0)

    def _carry(self, todo: Sequence[effects.ControllerEffect]) -> None:
        for effect in todo:
            match effect:
                case effects.Send():
                    self.send(effect.to, effect.message)
                case effects.Fence():
                    self.streams[effect.request].fence(effect.copy_id)
                case effects.Deliver():
                    start = effect.since - self.jobs[effect.request].prompt
                    self._accept(effect.request, effect.copy_id, start, effect.tokens)
                case effects.Report():
                    self.counts[type(effect.event).__name__] += 1
                    self.planner.report(effect.event)
                case effects.Forget():
                    self.counts["Forget"] += 1

    def _hear(self, frame: Frame) -> None:
        for request, copy_id, start, tokens in frame.rows:
            self._accept(request, copy_id, start, tokens)
        if frame.is_again:
            counts = [
                (copy_id, self.streams[request].count)
                for request, copy_id, _, _ in frame.rows
                if self.streams[request].copy_id == copy_id
            ]
            self.send(frame.source, Acknowledged(counts))

    def _accept(
        self, request: RequestId, copy_id: CopyId, start: int, tokens: Sequence[int]
    ) -> None:
        if request in self.over:
            return
        stream, job = self.streams[request], self.jobs[request]
        at = stream.count
        new = stream.accept(copy_id, start=start, tokens=tokens)
        if new != [job.token(index) for index in range(at, at + len(new))]:
            raise ViolationError(f"stream of {request} takes {new} at {at}")
        if stream.count > job.output:
            raise ViolationError(f"stream of {request} has {stream.count} tokens")
        if stream.count == job.output:
            self._finish(request, "complete")

    # What happens.

    def _arrive(self, request: RequestId) -> None:
        self.streams[request] = self.parts.stream()
        self.planner.arrive(request)

    def _finish(self, request: RequestId, why: str) -> None:
        if request not in self.over:
            self.over.add(request)
            self.counts[why] += 1
            self.order(events.End(request=request))
            self.planner.end(request)

    def _step(self) -> None:
        for instance in (*self.instances.values(), *self.zombies):
            if self.rng.random() < 0.9:
                instance.step()
        if not self._is_at_rest():
            self._later(1.0, self._step)

    def _tick(self) -> None:
        self._carry(self.controller.step(events.Resend()))
        for instance in (*self.instances.values(), *self.zombies):
            instance.tick()
        self.planner.tick()
        if not self._is_at_rest():
            self._later(TICK, self._tick)

    def may_grow(self, holding: Holding, pages: int) -> bool:
        request = holding.job.request
        owner = self.controller.owners.get(request)
        if owner is None or owner.copy_id != holding.copy_id:
            return False  # it has only not heard yet
        return self.planner.may_grow(request, pages)

    # Devices.

    def _add_device(self, device: DeviceGroupId) -> None:
        self._carry(self.controller.step(events.AddDevice(device=device)))
        machine = self.parts.instance(
            device, limits=self._limits, horizon=self.controller.next_copy_id
        )
        self.instances[device] = self.parts.fake(
            self,
            machine,
            num_pages=self._pages,
            preempts=not self._places,
            writes_late=self._writes_late,
        )
        self.planner.added(device)

    def _crash(self) -> None:
        """Half fall silent and are fenced later; half are fenced and babble on."""
        if len(self.instances) < 2:
            return
        self.counts["crashes"] += 1
        device = self.rng.choice(list(self.instances))
        instance = self.instances.pop(device)
        if self.rng.random() < 0.5:
            self._later(self.rng.random() * 5, self._lose, device)
            return
        instance.is_fenced = True
        self.zombies.append(instance)
        self._later(self.rng.random() * 12, self.zombies.remove, instance)
        self._lose(device)

    def _lose(self, device: DeviceGroupId) -> None:
        self._carry(self.controller.step(events.LoseDevice(device=device)))
        self.planner.lost(device)
        self._later(1 + self.rng.random() * 12, self._add_device, device)

    # What must hold.

    def _check(self) -> None:
        decoding: set[RequestId] = set()
        for instance in self.instances.values():
            instance.check()
            for row in instance.decoding:
                request = row.job.request
                if request in decoding:
                    raise ViolationError(f"{request} is decoded twice")
                decoding.add(request)
                owner = self.controller.owners.get(request)
                if owner is None or (
                    owner.copy_id != row.copy_id and row.copy_id not in owner.closing
                ):
                    raise ViolationError(f"nobody knows of {row}")
        self.planner.check()
        self.controller.check()

    def _is_at_rest(self) -> bool:
        return (
            not self.controller.owners
            and not self._orders
            and len(self.over) == len(self.jobs) == len(self.streams)
        )

    def _check_end(self) -> None:
        if self.controller.owners or self.planner.moves:
            raise ViolationError("the controller is not at rest")
        self.planner.check_end()
        for instance in self.instances.values():
            if instance.held:
                raise ViolationError(f"leaked: {instance.held}")
        for request, job in self.jobs.items():
            is_complete = self.streams[request].count == job.output
            if not is_complete and not self.counts["cancelled"]:
                raise ViolationError(f"request {request} was lost")

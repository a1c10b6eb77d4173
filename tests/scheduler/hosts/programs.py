"""The programs of a simulated fleet: they do what the pure machines tell them to.

FrontProgram (Relay)      clients' jobs; finds controller and hosts
HostProgram (Desk)        two device groups with fake instances; finds the controller
ControllerProgram (Coordinator)
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mell_jax.scheduler.hosts import coordinator as brain
from mell_jax.scheduler.hosts import desk as host_side
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts import relay as front_side
from mell_jax.scheduler.hosts.coordinator import Coordinator
from mell_jax.scheduler.hosts.desk import Desk
from mell_jax.scheduler.hosts.relay import Relay
from mell_jax.scheduler.hosts.roll import PeerId
from mell_jax.scheduler.ids import (
    NO_COPY,
    CopyId,
    DeviceGroupId,
    Epoch,
    FrontId,
    ModelId,
    RequestId,
)
from mell_jax.scheduler.migration import effects, messages
from mell_jax.scheduler.migration.endpoint import Endpoint
from mell_jax.scheduler.migration.source import StagingLimits
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from tests.scheduler.hosts.network import Link, Network, Process
from tests.scheduler.migration.fake_instance import FakeInstance, Frame, Holding
from tests.scheduler.migration.jobs import SIZE, Job, ViolationError

PATIENCE = 5  # beats
GROUPS = 2  # of a host


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The pieces under test; a broken one must be found out."""

    coordinator: type[Coordinator] = Coordinator
    desk: type[Desk] = Desk
    relay: type[Relay] = Relay
    endpoint: type[Endpoint] = Endpoint


@dataclass(frozen=True, slots=True)
class Hello:
    """The first words over a link say who is there."""

    name: str
    epoch: Epoch | None = None
    front: FrontId | None = None


@dataclass(frozen=True, slots=True)
class Carried:
    """A message between devices of two hosts, with its payload."""

    to: DeviceGroupId
    message: Any
    payload: Any


class Directory:
    """Who can be found under which name."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.processes: dict[str, Process] = {}
        self.counts: Counter[str] = Counter()

    def next_generation(self) -> int:
        """Returns a number that no controller had before."""
        self.counts["controllers"] += 1
        return self.counts["controllers"]

    def find(self, name: str) -> Process | None:
        """Returns the process of that name, if one is alive."""
        process = self.processes.get(name)
        return process if process is not None and process.is_alive else None


class Program:
    """What all programs do: find the controller, and keep count of beats."""

    def __init__(self, directory: Directory, name: str) -> None:
        self.directory = directory
        self.name = name
        self.process = Process(name, self)
        directory.processes[name] = self.process
        self.controller: Link | None = None

    def find_controller(self) -> bool:
        """Returns whether there is a new link to the controller."""
        other = self.directory.find("controller")
        if self.controller is not None or other is None:
            return False
        self.controller = self.directory.network.connect(self.process, other)
        return self.controller is not None

    def beat(self) -> None:
        """Sends a beat over every link, and counts those that did not come."""
        for link in list(self.process.links):
            link.send(self.process, words.Beat())
        for link in list(self.process.links):
            link.beat(self.process, patience=PATIENCE)

    def send_controller(self, message: Any) -> None:
        if self.controller is not None:
            self.controller.send(self.process, message)

    def hear(self, link: Link, message: Any) -> None:
        raise NotImplementedError

    def lost(self, link: Link) -> None:
        raise NotImplementedError


class ControllerProgram(Program):
    """The controller; what it knew is gone with it."""

    def __init__(
        self, directory: Directory, *, parts: Parts, pages: int, policy: str, hosts: int
    ) -> None:
        super().__init__(directory, "controller")
        self._parts, self._pages, self._policy = parts, pages, policy
        self._peers: dict[PeerId, Link] = {}
        self._last_peer = 0
        self._beats = 0
        self.least_hosts = hosts
        self.coordinator = self._new()

    def _new(self) -> Coordinator:
        spec = ModelSpec(
            capacity_pages=self._pages,
            growth_pages_per_s=1 / SIZE,
            page_tokens=SIZE,
            page_bytes=1.0,
        )
        return self._parts.coordinator(
            models={ONLY_MODEL: spec},
            policy=POLICIES[self._policy](PolicyConfig(look_s=1)),
            patience=PATIENCE,
            least_hosts=self.least_hosts,
            generation=self.directory.next_generation(),
        )

    def hear(self, link: Link, message: Any) -> None:
        peer = next((p for p, known in self._peers.items() if known is link), None)
        if peer is None:
            self._last_peer += 1
            peer = PeerId(self._last_peer)
            self._peers[peer] = link
        now = self.directory.network.now
        self._do(self.coordinator.heard(peer, message, now_s=now))

    def lost(self, link: Link) -> None:
        for peer, known in list(self._peers.items()):
            if known is link:
                del self._peers[peer]
                now = self.directory.network.now
                self._do(self.coordinator.cut(peer, now_s=now))
        if not self._peers and not self.coordinator.is_adopting:
            self.least_hosts = 1
            self.coordinator = self._new()  # it was out, and others went on

    def beat(self) -> None:
        super().beat()
        now = self.directory.network.now
        self._beats += 1
        self._do(self.coordinator.beat(now_s=now))
        if self._beats % 2 == 0:
            self._do(self.coordinator.tick(now_s=now))
        self._do(self.coordinator.wake(now_s=now))

    def _do(self, todo: Sequence[brain.Effect]) -> None:
        self.coordinator.machine.ledger.check()
        for effect in todo:
            match effect:
                case brain.Send():
                    link = self._peers.get(effect.to)
                    if link is not None:
                        link.send(self.process, effect.message)
                case brain.HangUp():
                    link = self._peers.get(effect.peer)
                    if link is not None:
                        link.cut()


class Client:
    """The requests of a front end, and what they have got."""

    def __init__(self) -> None:
        self.got: dict[RequestId, int] = {}
        self.cancelled: set[RequestId] = set()
        self.complete: set[RequestId] = set()


class FrontProgram(Program):
    """A front end and its clients."""

    def __init__(
        self,
        directory: Directory,
        *,
        front: FrontId,
        parts: Parts,
        jobs: dict[RequestId, Job],
    ) -> None:
        super().__init__(directory, f"front {front}")
        self.front = front
        self.client = Client()
        self.jobs = jobs
        self.relay = parts.relay(front, slot=front, pages_of=pages_of)
        self._hosts: dict[Epoch, Link] = {}
        self._wanted: dict[Epoch, words.Host] = {}

    def ask(self, job: Job) -> None:
        """A client asks."""
        self.client.got[job.request] = 0
        ask = words.Ask(
            request=job.request,
            model=ONLY_MODEL,
            prompt=job.prompt,
            known=job.prompt,
            pages=-(-job.prompt // SIZE),
            peak_pages=job.max_pages,
        )
        self._do(self.relay.ask(ask))

    def cancel(self, request: RequestId) -> None:
        """A client leaves."""
        if request in self.client.got and request not in self.client.complete:
            self.client.cancelled.add(request)
            self._do(self.relay.close(request))

    def hear(self, link: Link, message: Any) -> None:
        if link is self.controller:
            self._do(self.relay.hear_controller(message))
            return
        for epoch, known in list(self._hosts.items()):
            if known is link:
                self._do(self.relay.hear_host(epoch, message))

    def lost(self, link: Link) -> None:
        if link is self.controller:
            self.controller = None
            self._do(self.relay.cut_controller())
        for epoch, known in list(self._hosts.items()):
            if known is link:
                del self._hosts[epoch]
                self._do(self.relay.cut_host(epoch))

    def beat(self) -> None:
        super().beat()
        if self.find_controller():
            self._do(self.relay.meet_controller())

    def _do(self, todo: Sequence[front_side.Effect]) -> None:
        for effect in todo:
            match effect:
                case front_side.ToController():
                    self.send_controller(effect.message)
                case front_side.ToHost():
                    link = self._hosts.get(effect.epoch)
                    if link is not None:
                        link.send(self.process, effect.message)
                case front_side.Reach():
                    self._reach(effect.host)
                case front_side.Leave():
                    link = self._hosts.pop(effect.epoch, None)
                    if link is not None:
                        link.cut()
                case front_side.Pass():
                    self._pass(effect.row)
                case front_side.Fail():
                    raise ViolationError(f"{effect.request}: {effect.reason}")

    def _reach(self, host: words.Host) -> None:
        network, other = self.directory.network, self.directory.find(host.name)
        link = network.connect(self.process, other) if other is not None else None
        if link is None:
            network.later(
                network.delay(),
                lambda: self.process.do(
                    lambda: self._do(self.relay.cut_host(host.epoch))
                ),
            )
            return
        self._hosts[host.epoch] = link
        hello = Hello(self.name, epoch=host.epoch, front=self.front)
        link.send(self.process, hello)
        self._do(self.relay.reached(host.epoch))

    def _pass(self, row: words.Row) -> None:
        job, client = self.jobs[row.request], self.client
        at = client.got[row.request]
        if row.start != at:
            raise ViolationError(f"{row} comes at {at}")
        right = [job.token(index) for index in range(at, at + len(row.tokens))]
        if list(row.tokens) != right:
            raise ViolationError(f"{row} should be {right}")
        if row.request in client.complete or row.request in client.cancelled:
            raise ViolationError(f"{row} after its end")
        client.got[row.request] = at + len(row.tokens)
        is_whole = client.got[row.request] == job.output
        if row.is_end != is_whole:
            raise ViolationError(f"{row} ends at {client.got[row.request]}")
        if row.is_end:
            client.complete.add(row.request)
            self._do(self.relay.close(row.request))


class HostInstance(FakeInstance):
    """A fake instance that tells its host when a copy is gone."""

    def __init__(self, world: "HostProgram", machine: Endpoint, **kwargs: Any) -> None:
        super().__init__(world, machine, **kwargs)
        self._host = world

    def _free(self, effect: effects.Free) -> None:
        super()._free(effect)
        self._host.freed(effect.copy_id)


class HostProgram(Program):
    """A host with fake instances; its pages are gone with it."""

    def __init__(
        self,
        directory: Directory,
        *,
        name: str,
        parts: Parts,
        pages: int,
        jobs: dict[RequestId, Job],
        rng: random.Random,
    ) -> None:
        super().__init__(directory, name)
        self.jobs = jobs
        self.instances: dict[DeviceGroupId, HostInstance] = {}
        self.desk = parts.desk(
            name, num_groups=GROUPS, capacity_pages={ONLY_MODEL: pages}
        )
        self._parts, self._pages, self._rng = parts, pages, rng
        self._horizons: dict[DeviceGroupId, CopyId] = {}
        self._fronts: dict[FrontId, Link] = {}
        self._peers: dict[Epoch, Link] = {}
        self._granted: dict[CopyId, int] = {}
        self._early: list[tuple[Link, list[Any]]] = []
        self._speaking: DeviceGroupId | None = None

    # -- links ---------------------------------------------------------------------

    def hear(self, link: Link, message: Any) -> None:
        if isinstance(message, Hello):
            self._greet(link, message)
        elif link is self.controller:
            self._do(self.desk.hear_controller(message))
        elif isinstance(message, Carried):
            self._deliver(message.to, message.message, message.payload)
        else:
            for front, known in list(self._fronts.items()):
                if known is link:
                    self._hear_front(front, message)
                    return
            for known, missed in self._early:
                if known is link:
                    missed.append(message)

    def _greet(self, link: Link, hello: Hello) -> None:
        if hello.front is None:
            if hello.epoch is not None:
                self._peers[hello.epoch] = link
        elif hello.epoch == self.desk.epoch:
            self._fronts[hello.front] = link
        elif (hello.epoch or 0) > (self.desk.epoch or 0):
            self._early.append((link, [hello]))  # its own admission is on the way
        else:
            link.cut()  # it means another one, which is gone

    def _hear_front(self, front: FrontId, message: Any) -> None:
        if isinstance(message, words.Opening):
            copy_id = message.message.copy_id
            pages = max(self._granted.get(copy_id, 0), message.pages)
            self._granted[copy_id] = pages
        self._do(self.desk.hear_front(front, message))

    def lost(self, link: Link) -> None:
        if link is self.controller:
            self.controller = None
            self._do(self.desk.cut_controller())
        for front, known in list(self._fronts.items()):
            if known is link:
                del self._fronts[front]
                self._do(self.desk.cut_front(front))
        for epoch, known in list(self._peers.items()):
            if known is link:
                del self._peers[epoch]
                self._do(self.desk.cut_peer(epoch))

    def beat(self) -> None:
        super().beat()
        if self.find_controller():
            whole = [
                copy_id
                for instance in self.instances.values()
                for copy_id in instance.machine.copies
                if instance.machine.is_whole(copy_id)
            ]
            self._do(self.desk.meet_controller(whole=whole))
        self._do(self.desk.tell_rooms(list(self._fronts)))

    # -- what instances need (World) -------------------------------------------------

    def send(self, to: DeviceGroupId, packet: Any, payload: Any = None) -> None:
        if isinstance(packet, Frame):
            self._send_rows(packet)
        elif to == messages.CONTROLLER:
            self._do(self.desk.says(self._sender(packet), packet))
        elif to in self.instances:
            self.directory.network.later(
                0.001,
                lambda: self.process.do(lambda: self._deliver(to, packet, payload)),
            )
        else:
            self._send_peer(to, Carried(to, packet, payload))

    def _sender(self, packet: Any) -> DeviceGroupId:
        """Returns the device that says something to the controller."""
        assert self._speaking is not None
        return self._speaking

    def _deliver(self, to: DeviceGroupId, packet: Any, payload: Any) -> None:
        instance = self.instances.get(to)
        if instance is not None:
            self._speak(to, lambda: instance.deliver(packet, payload))

    def _speak(self, device: DeviceGroupId, act: Callable[[], None]) -> None:
        before, self._speaking = self._speaking, device
        act()
        self._speaking = before

    def _send_rows(self, frame: Frame) -> None:
        for request, copy_id, start, tokens in frame.rows:
            job = self.jobs[request]
            row = words.Row(
                request=request,
                copy_id=copy_id,
                start=start,
                tokens=tuple(tokens),
                is_end=start + len(tokens) == job.output,
            )
            link = self._fronts.get(FrontId(request >> 40))
            if link is not None:
                link.send(self.process, row)

    def _send_peer(self, to: DeviceGroupId, carried: Carried) -> None:
        epoch = self.desk.host_of(to)
        host = next((h for h in self.desk.hosts if h.epoch == epoch), None)
        if epoch is None or host is None:
            return  # it is gone, as the controller knows
        link = self._peers.get(epoch)
        if link is None:
            other = self.directory.find(host.name)
            if other is not None:
                link = self.directory.network.connect(self.process, other)
        if link is None:
            self._do(self.desk.cut_peer(epoch))
            return
        if epoch not in self._peers:
            self._peers[epoch] = link
            link.send(self.process, Hello(self.name, epoch=self.desk.epoch))
        link.send(self.process, carried)

    def may_grow(self, holding: Holding, pages: int) -> bool:
        if pages > self._granted.get(holding.copy_id, 0):
            self._do(self.desk.wants(holding.copy_id, pages=pages))
        return pages <= self._granted.get(holding.copy_id, 0)

    def freed(self, copy_id: CopyId) -> None:
        self._granted.pop(copy_id, None)
        self._do(self.desk.freed(copy_id))

    def step(self) -> None:
        """Every instance makes a step."""
        for device, instance in list(self.instances.items()):
            if self._rng.random() < 0.9 and self.instances.get(device) is instance:
                self._speak(device, instance.step)

    # -- what the desk tells ---------------------------------------------------------

    def _do(self, todo: Sequence[host_side.Effect]) -> None:
        for effect in todo:
            match effect:
                case host_side.ToController():
                    self.send_controller(effect.message)
                case host_side.ToFront():
                    link = self._fronts.get(effect.front)
                    if link is not None:
                        link.send(self.process, effect.message)
                case host_side.Deliver():
                    self._tell(effect)
                case host_side.LetGrow():
                    self._granted[effect.copy_id] = effect.pages
                case host_side.Change():
                    self._change(effect)
                case host_side.Begin():
                    self._begin()

    def _tell(self, effect: host_side.Deliver) -> None:
        instance = self.instances.get(effect.device)
        if instance is not None:
            instance._has_changed = True
            self._speak(effect.device, lambda: instance.tell(effect.message))
            message, copies = effect.message, instance.machine.copies
            if isinstance(message, words.Opened) and message.copy_id not in copies:
                self.freed(message.copy_id)

    def _begin(self) -> None:
        self.instances.clear()
        self._granted.clear()
        for link in [*self._fronts.values(), *self._peers.values()]:
            link.cut()
        self._fronts.clear()
        self._peers.clear()
        early, self._early = self._early, []
        for link, missed in early:
            for message in missed:
                self.hear(link, message)

    def _change(self, change: host_side.Change) -> None:
        if change.model is None:
            self.instances.pop(change.device, None)
            return
        endpoint = self._parts.endpoint(
            change.device,
            limits=StagingLimits(page_tokens=SIZE, max_stages=2, tail_pages=1),
            horizon=change.horizon,
        )
        self.instances[change.device] = HostInstance(
            self,
            endpoint,
            num_pages=self._pages,
            preempts=False,
            writes_late=self._rng.random() < 0.5,
        )
        model, device = change.model, change.device
        self.directory.network.later(
            self._rng.random(),
            lambda: self.process.do(lambda: self._open(device, model)),
        )

    def _open(self, device: DeviceGroupId, model: ModelId) -> None:
        if device in self.instances:
            self._do(self.desk.opened(device, model, took_s=1.0))


def pages_of(model: ModelId, tokens: int) -> int:
    """Returns the pages of so many tokens."""
    return -(-tokens // SIZE)


__all__ = [
    "NO_COPY",
    "ControllerProgram",
    "Directory",
    "FrontProgram",
    "HostProgram",
    "Parts",
]

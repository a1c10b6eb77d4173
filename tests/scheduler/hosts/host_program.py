"""The program of a simulated host: device groups with fake instances."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from mell_jax.scheduler.hosts import desk as host_side
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import (
    CopyId,
    DeviceGroupId,
    Epoch,
    FrontId,
    ModelId,
    RequestId,
    front_of,
)
from mell_jax.scheduler.migration import effects, messages
from mell_jax.scheduler.migration.endpoint import Endpoint
from mell_jax.scheduler.migration.source import StagingLimits
from mell_jax.scheduler.placement.events import ONLY_MODEL
from tests.scheduler.hosts.network import Link
from tests.scheduler.hosts.programs import (
    GROUPS,
    Carried,
    Directory,
    Hello,
    Lineage,
    Parts,
    Program,
)
from tests.scheduler.migration.fake_instance import FakeInstance, Frame, Holding
from tests.scheduler.migration.jobs import SIZE, Job, ViolationError

LINEAGE_BITS = 16  # above those of a token


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
        self._fronts: dict[FrontId, Link] = {}
        self._peers: dict[Epoch, Link] = {}  # where to send to
        self._epochs: dict[Link, Epoch] = {}  # there may be two links to a peer
        self._granted: dict[CopyId, int] = {}
        self._lineages: dict[CopyId, Lineage] = {}
        self._early: dict[Link, list[Any]] = {}
        self._speaking: DeviceGroupId | None = None
        self.is_leaving = False

    # -- links ---------------------------------------------------------------------

    def hear(self, link: Link, message: Any) -> None:
        if isinstance(message, Hello):
            self._greet(link, message)
        elif link is self.controller:
            held = self._held()
            self._do(self.desk.hear_controller(message))
            if isinstance(message, words.Retain):
                lost = (held & message.copies) - self._held()
                if lost:
                    raise ViolationError(f"{lost} were to be kept")
        elif isinstance(message, Carried):
            self._deliver(message)
        elif link in self._early:
            self._early[link].append(message)
        else:
            for front, known in self._fronts.items():
                if known is link:
                    self._hear_front(front, message)
                    return

    def _held(self) -> frozenset[CopyId]:
        return frozenset(
            copy_id for instance in self.instances.values() for copy_id in instance.held
        )

    def _greet(self, link: Link, hello: Hello) -> None:
        if hello.front is None:
            if hello.epoch is not None:
                self._peers[hello.epoch], self._epochs[link] = link, hello.epoch
        elif hello.epoch == self.desk.epoch:
            older = self._fronts.pop(hello.front, None)
            if older is not None:  # its end is yet to be heard
                older.cut(self.process)
                self._do(self.desk.cut_front(hello.front))
            self._fronts[hello.front] = link
        elif (hello.epoch or 0) > (self.desk.epoch or 0):
            self._early[link] = [hello]  # its own admission is on the way
        else:
            link.cut(self.process)  # it means another one, which is gone

    def _hear_front(self, front: FrontId, message: Any) -> None:
        if isinstance(message, words.Opening):
            opening = message.message
            copy_id = opening.copy_id
            pages = max(self._granted.get(copy_id, 0), message.pages)
            self._granted[copy_id] = pages
            if isinstance(opening, messages.Start):
                begin = opening.known - self.jobs[opening.request].prompt
                self._lineages[copy_id] = self.directory.new_lineage(begin)
        self._do(self.desk.hear_front(front, message))
        if isinstance(message, words.Opening) and message.since is None:
            instance = self.instances.get(message.device)
            if instance is not None and message.message.copy_id in instance.held:
                self._check_granted(message.device)

    def _check_granted(self, device: DeviceGroupId) -> None:
        """What a host grants by itself it has.

        A controller may grant what is free as soon as its word to release something
        has come, too.
        """
        instance = self.instances.get(device)
        copies = instance.held if instance is not None else ()
        granted = sum(self._granted.get(copy_id, 0) for copy_id in copies)
        if granted > self._pages:
            raise ViolationError(f"{granted} pages granted of {self._pages}")

    def lost(self, link: Link) -> None:
        if link is self.controller:
            self.controller = None
            self._do(self.desk.cut_controller())
        for front, known in list(self._fronts.items()):
            if known is link:
                del self._fronts[front]
                self._do(self.desk.cut_front(front))
        self._early.pop(link, None)
        epoch = self._epochs.pop(link, None)
        if epoch is not None:
            if self._peers.get(epoch) is link:
                del self._peers[epoch]
            self._do(self.desk.cut_peer(epoch))

    def fail(self) -> None:
        """One of its device groups fails, for good."""
        if self.instances:
            device = self._rng.choice(list(self.instances))
            del self.instances[device]
            self._do(self.desk.failed(device, reason="a broken device"))

    def leave(self) -> None:
        """Asks for its requests to be moved away; it may ask again."""
        if not self.is_leaving:
            self.is_leaving = True
            self.process.do(lambda: self._do(self.desk.leave()))

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
        else:
            is_chunk = isinstance(packet, messages.Chunk)
            lineage = self._lineages[packet.from_copy_id] if is_chunk else None
            self._send_device(Carried(to, packet, payload, lineage))

    def _send_device(self, carried: Carried) -> None:
        if carried.to in self.instances:
            self.directory.network.later(
                0.001, lambda: self.process.do(lambda: self._deliver(carried))
            )
        else:
            self._send_peer(carried)

    def _sender(self, packet: Any) -> DeviceGroupId:
        """Returns the device that says something to the controller."""
        assert self._speaking is not None
        return self._speaking

    def _deliver(self, carried: Carried) -> None:
        instance = self.instances.get(carried.to)
        if instance is None:
            return
        if carried.lineage is not None:
            self._lineages[carried.message.copy_id] = carried.lineage
        self._speak(
            carried.to, lambda: instance.deliver(carried.message, carried.payload)
        )

    def _speak(self, device: DeviceGroupId, act: Callable[[], None]) -> None:
        before, self._speaking = self._speaking, device
        act()
        self._speaking = before

    def _send_rows(self, frame: Frame) -> None:
        for request, copy_id, start, tokens in frame.rows:
            job = self.jobs[request]
            mark = self._lineages[copy_id].number << LINEAGE_BITS
            row = words.Row(
                request=request,
                copy_id=copy_id,
                start=start,
                tokens=tuple(token | mark for token in tokens),
                is_end=start + len(tokens) == job.output,
            )
            link = self._fronts.get(front_of(request))
            if link is not None:
                link.send(self.process, row)

    def _send_peer(self, carried: Carried) -> None:
        epoch = self.desk.host_of(carried.to)
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
            self._peers[epoch], self._epochs[link] = link, epoch
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
        for instance in self.instances.values():
            instance.check()

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
                    if self.desk.is_alone:
                        self._check_granted(effect.device)
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
        self._lineages.clear()
        for link in [*self._fronts.values(), *self._epochs]:
            link.cut(self.process)
        for links in (self._fronts, self._peers, self._epochs):
            links.clear()
        early, self._early = self._early, {}
        for link, missed in early.items():
            for message in missed:
                self.hear(link, message)

    def _change(self, change: host_side.Change) -> None:
        if change.model is None:
            self.instances.pop(change.device, None)
            return
        endpoint = self._parts.endpoint(
            change.device,
            limits=StagingLimits(
                page_tokens=SIZE,
                max_stages=2,
                tail_pages=1,
                piece_pages=self._parts.piece_pages,
            ),
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

"""The controller's program: it drives a `Coordinator` by an event loop.

    links -> heard, cut        every beat -> beat        every epoch -> tick

It knows what models there are from the first host that connects, and begins then. If
all its links end, it was out (stopped, or cut off) and others went on without it: then
it forgets what it knew and adopts what there is, as one that has just begun.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from absl import logging

from mell_jax.hosts.link import Link, LinkConfig
from mell_jax.hosts.listener import Listener, listen
from mell_jax.hosts.wire import Addresses, Served, Welcome
from mell_jax.scheduler.hosts import coordinator as brain
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.coordinator import Coordinator
from mell_jax.scheduler.hosts.roll import PeerId
from mell_jax.scheduler.ids import DeviceGroupId, FrontId, ModelId, RequestId
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES

_GENERATION_BITS = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig:
    """This is what a controller is told.

    Attributes:
      address: where it listens.
      policy: places and moves requests.
      policies: its knobs.
      least_hosts: that it waits for before it begins.
    """

    address: str
    policy: str = "consolidate"
    policies: PolicyConfig = field(default_factory=PolicyConfig)
    least_hosts: int = 1


@final
class Control:
    """A controller; all methods belong to its event loop."""

    def __init__(self, config: ControlConfig, *, links: LinkConfig) -> None:
        self.coordinator: Coordinator | None = None  # before the first host
        self.models: tuple[Served, ...] = ()
        self._config = config
        self._links = links
        self._peers: dict[PeerId, Link] = {}
        self._addresses: dict[str, str] = {}  # of hosts, by name
        self._last_peer = 0
        self._server: Listener | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._start_s = time.monotonic()

    @property
    def now_s(self) -> float:
        """Returns the seconds since its start."""
        return time.monotonic() - self._start_s

    async def start(self) -> str:
        """Listens; returns the address.

        Raises:
          OSError: the address cannot be listened on.
        """
        self._server = await listen(
            self._config.address, config=self._links, greet=self._greet
        )
        for loop in (self._beats(), self._epochs()):
            self._keep(asyncio.get_running_loop().create_task(loop))
        host, port = self._server.address
        return f"{host}:{port}"

    async def stop(self) -> None:
        """Ends all links; hosts and front ends go on alone."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        for link in list(self._peers.values()):
            link.cut()
        self._peers.clear()

    def relocate(self, request: RequestId, *, device: DeviceGroupId) -> None:
        """Moves a request to an instance, if that has room; for an operator."""
        assert self.coordinator is not None, "there are requests, and so hosts"
        self._do(self.coordinator.relocate(request, device=device, now_s=self.now_s))

    # Links.

    async def _greet(self, link: Link) -> None:
        hello = link.hello
        assert hello is not None, "a link that was accepted has its hello"
        if hello.role == "host" and not self._agree(hello.models):
            logging.error("host %s serves other models than the fleet", hello.name)
            link.cut()
            return
        if not self.models:
            link.cut()  # a front end that is too early: it tries again
            return
        if hello.role == "host":
            self._addresses[hello.name] = hello.address
            self._tell_addresses()
        self._last_peer += 1
        peer = PeerId(self._last_peer)
        self._peers[peer] = link
        if hello.role == "front":
            front = hello.front or FrontId(secrets.randbits(22) + 1)
            link.send(Welcome(front=front, models=self.models))
        link.send(Addresses(by_name=self._addresses))
        self._keep(
            link.run(
                hear=lambda message: self._hear(peer, message),
                on_cut=lambda: self._lost(peer),
            )
        )

    def _agree(self, models: tuple[Served, ...]) -> bool:
        """Takes the models of the first host; tells whether those of others are so."""
        if not self.models:
            self.models = models
            self.coordinator = self._new(least_hosts=self._config.least_hosts)
        return _essence(models) == _essence(self.models)

    def _new(self, *, least_hosts: int) -> Coordinator:
        config = self._config
        return Coordinator(
            models={ModelId(m.info.model_name): m.spec for m in self.models},
            policy=POLICIES[config.policy](config.policies),
            patience=self._links.patience,
            generation=secrets.randbits(_GENERATION_BITS),
            least_hosts=least_hosts,
            epoch_s=config.policies.epoch_s,
        )

    def _hear(self, peer: PeerId, message: Any) -> None:
        if self.coordinator is not None and peer in self._peers:
            self._do(self.coordinator.heard(peer, message, now_s=self.now_s))

    def _lost(self, peer: PeerId) -> None:
        self._peers.pop(peer, None)
        if self.coordinator is None:
            return
        self._do(self.coordinator.cut(peer, now_s=self.now_s))
        if not self._peers and not self.coordinator.is_adopting:
            logging.warning("all links have ended: what others have now is adopted")
            self.coordinator = self._new(least_hosts=1)

    def _tell_addresses(self) -> None:
        for link in self._peers.values():
            link.send(Addresses(by_name=self._addresses))

    # Time.

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(self._links.beat_s)
            await asyncio.sleep(0)  # what was said meanwhile comes first
            if self.coordinator is not None:
                self._do(self.coordinator.beat(now_s=self.now_s))
            for link in list(self._peers.values()):
                link.beat()

    async def _epochs(self) -> None:
        """Ends epochs, and lets placement decide what it has put off until then."""
        tick_s = 0.0
        while True:
            wait_s = self._config.policies.epoch_s
            if self.coordinator is not None:
                wait_s = min(wait_s, self.coordinator.machine.wake_s - self.now_s)
            await asyncio.sleep(max(wait_s, 0.01))
            if self.coordinator is None:
                continue
            if self.now_s - tick_s >= self._config.policies.epoch_s:
                tick_s = self.now_s
                self._do(self.coordinator.tick(now_s=self.now_s))
            elif self.now_s >= self.coordinator.machine.wake_s:
                self._do(self.coordinator.wake(now_s=self.now_s))

    # What the coordinator says.

    def _do(self, todo: Sequence[brain.Effect]) -> None:
        for effect in todo:
            match effect:
                case brain.Send():
                    link = self._peers.get(effect.to)
                    if link is not None and not isinstance(effect.message, words.Beat):
                        link.send(effect.message)
                case brain.HangUp():
                    link = self._peers.get(effect.peer)
                    if link is not None:
                        link.cut()

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Keeps a task until it ends; one that raises is a bug, and is told."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logging.error("a task of the controller has failed", exc_info=error)


def _essence(models: tuple[Served, ...]) -> tuple[Served, ...]:
    """Returns models without what is measured, and differs from host to host."""
    return tuple(
        replace(model, spec=replace(model.spec, growth_pages_per_s=0.0, load_s=0.0))
        for model in models
    )

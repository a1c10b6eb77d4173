"""The controller's program: it drives a `Coordinator` by an event loop.

    links -> heard, cut        every beat -> beat        every epoch -> tick

It knows what models there are from the first host that connects, and begins then. If
all its links end, it was out (stopped, or cut off) and others went on without it: then
it forgets what it knew and adopts what there is, as one that has just begun.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from absl import logging

from mell_jax.hosts import news
from mell_jax.hosts.agreement import disagreement
from mell_jax.hosts.kept_tasks import KeptTasks
from mell_jax.hosts.link import Link, LinkConfig
from mell_jax.hosts.listener import Listener, listen
from mell_jax.hosts.wire import Addresses, Served, Unwelcome, Welcome
from mell_jax.scheduler.hosts import coordinator as brain
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.coordinator import Coordinator
from mell_jax.scheduler.hosts.news import Watch
from mell_jax.scheduler.hosts.roll import PeerId
from mell_jax.scheduler.hosts.view import overview_of
from mell_jax.scheduler.ids import Epoch, FrontId, ModelId
from mell_jax.scheduler.placement.policy import PolicyConfig

_GENERATION_BITS = 31
_TURN_AWAY_S = 5.0
_CUT = "its link has ended"
_SILENT = "it was silent for too long"
_ANEW = "it has joined anew"
VIEW_S = 0.5
"""Front ends are told no more often what to show."""
VIEW_SHARE = 0.05
"""Of the controller's time that this may take at most."""


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

    def __init__(
        self,
        config: ControlConfig,
        *,
        links: LinkConfig,
        on_epoch: Callable[[Epoch], None] = lambda _: None,
        on_failed: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """Does nothing yet.

        Args:
          on_epoch: hears below which no host is admitted.
          on_failed: hears of a bug, after which the books may be wrong: the next
            controller adopts what there is.
        """
        self.coordinator: Coordinator | None = None  # before the first host
        self._watch: Watch | None = None  # likewise
        self.models: tuple[Served, ...] = ()
        self._config = config
        self._links = links
        self._on_epoch = on_epoch
        self._peers: dict[PeerId, Link] = {}
        self._addresses: dict[str, str] = {}  # of hosts, by name
        self._last_peer = 0
        self._server: Listener | None = None
        self._tasks = KeptTasks("the controller has failed", failed=on_failed)
        self._start_s = time.monotonic()
        self._next_view_s = 0.0

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
            self._tasks.keep(asyncio.get_running_loop().create_task(loop))
        host, port = self._server.address
        news.tell_began(f"{host}:{port}")
        return f"{host}:{port}"

    async def stop(self) -> None:
        """Ends all links; hosts and front ends go on alone."""
        if self._server is not None:
            self._server.close()
        self._tasks.cancel_all()
        for link in list(self._peers.values()):
            link.cut()
        self._peers.clear()

    # Links.

    async def _greet(self, link: Link) -> None:
        hello = link.hello
        assert hello is not None, "a link that was accepted has its hello"
        if hello.role == "host":
            self._meet_models(hello.models)
            reason = disagreement(hello.models, fleet=self.models)
            if reason:
                self._turn_away(link, hello.name, reason=reason)
                return
        if not self.models:
            link.cut()  # a front end that is too early: it tries again
            return
        if hello.role == "host":
            news.tell_joined(hello.name, address=hello.address)
            self._addresses[hello.name] = hello.address
            self._tell_addresses()
        self._last_peer += 1
        peer = PeerId(self._last_peer)
        self._peers[peer] = link
        if hello.role == "front":
            front = hello.front or FrontId(secrets.randbits(22) + 1)
            link.send(Welcome(front=front, models=self.models))
        link.send(Addresses(by_name=self._addresses))
        self._tasks.keep(
            link.run(
                hear=lambda message: self._hear(peer, message),
                on_cut=lambda: self._lost(peer),
            )
        )

    def _meet_models(self, models: tuple[Served, ...]) -> None:
        """Takes the models of the first host to be those of the fleet."""
        if not self.models:
            self.models = models
            self._begin(least_hosts=self._config.least_hosts)

    def _turn_away(self, link: Link, name: str, *, reason: str) -> None:
        """Tells a host that it is not let in; it hangs up, or this end does."""
        news.tell_refused(name, reason=reason)
        link.send(Unwelcome(reason=reason))
        self._tasks.keep(link.run(hear=lambda _: None, on_cut=lambda: None))
        asyncio.get_running_loop().call_later(_TURN_AWAY_S, link.cut)

    def _begin(self, *, least_hosts: int) -> None:
        config = self._config
        self.coordinator = Coordinator(
            models={ModelId(m.info.model_name): m.spec for m in self.models},
            policy=config.policy,
            policies=config.policies,
            patience=self._links.patience,
            generation=secrets.randbits(_GENERATION_BITS),
            least_hosts=least_hosts,
        )
        self._watch = Watch(self.coordinator)
        self._on_epoch(self.coordinator.first_epoch)

    def _hear(self, peer: PeerId, message: Any) -> None:
        if self.coordinator is not None and peer in self._peers:
            done = self.coordinator.heard(peer, message, now_s=self.now_s)
            self._do(done, cause=_ANEW)

    def _lost(self, peer: PeerId) -> None:
        self._peers.pop(peer, None)
        if self.coordinator is None:
            return
        self._do(self.coordinator.cut(peer, now_s=self.now_s), cause=_CUT)
        if not self._peers and not self.coordinator.is_adopting:
            logging.warning("all links have ended: what others have now is adopted")
            self._begin(least_hosts=1)

    def _tell_addresses(self) -> None:
        for link in self._peers.values():
            link.send(Addresses(by_name=self._addresses))

    # Time.

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(self._links.beat_s)
            await asyncio.sleep(0)  # what was said meanwhile comes first
            if self.coordinator is not None:
                done = self.coordinator.beat(now_s=self.now_s)
                self._do(done, cause=_SILENT)
                self._tell_view(self.coordinator)
            for link in list(self._peers.values()):
                link.beat()

    def _tell_view(self, coordinator: Coordinator) -> None:
        """Tells front ends what to show of the fleet, now and then."""
        begun_s = self.now_s
        fronts = coordinator.roll.fronts.values()
        if coordinator.is_adopting or not fronts or begun_s < self._next_view_s:
            return
        overview = overview_of(coordinator)
        for front in fronts:
            link = self._peers.get(front.peer)
            if link is not None and link.unsent_bytes == 0:  # or it is slow to read
                link.send(overview)
        took_s = self.now_s - begun_s
        self._next_view_s = begun_s + max(VIEW_S, took_s / VIEW_SHARE)

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

    def _do(self, todo: Sequence[brain.Effect], *, cause: str = "") -> None:
        """Does what the coordinator says, and tells who has come or gone by it."""
        if self._watch is not None:
            news.tell_all(self._watch.look(todo, cause=cause))
        for effect in todo:
            match effect:
                case brain.Send():
                    link = self._peers.get(effect.to)
                    if link is not None and not isinstance(effect.message, words.Beat):
                        link.send(effect.message)
                case brain.HangUp():
                    link = self._peers.get(effect.peer)
                    if effect.reason:
                        logging.error("a link is hung up: %s", effect.reason)
                    if link is not None:
                        link.cut()

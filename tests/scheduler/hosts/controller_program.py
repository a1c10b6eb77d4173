"""The program of a simulated controller."""

from collections.abc import Sequence
from typing import Any

from mell_jax.scheduler.hosts import coordinator as brain
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.coordinator import Coordinator
from mell_jax.scheduler.hosts.roll import PeerId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from tests.scheduler.hosts.network import Link
from tests.scheduler.hosts.programs import PATIENCE, Directory, Parts, Program
from tests.scheduler.migration.jobs import SIZE

RECOUNT = 8  # events from one recount of the books to the next


class ControllerProgram(Program):
    """The controller; what it knew is gone with it."""

    def __init__(
        self, directory: Directory, *, parts: Parts, pages: int, policy: str, hosts: int
    ) -> None:
        super().__init__(directory, "controller")
        self._parts, self._pages, self._policy = parts, pages, policy
        self._links: dict[PeerId, Link] = {}
        self._peers: dict[Link, PeerId] = {}
        self._last_peer = 0
        self._beats = 0
        self._events = 0
        self.coordinator = self._new(hosts=hosts)

    def _new(self, *, hosts: int) -> Coordinator:
        spec = ModelSpec(
            capacity_pages=self._pages,
            growth_pages_per_s=1 / SIZE,
            page_tokens=SIZE,
            page_bytes=1.0,
        )
        return self._parts.coordinator(
            models={ONLY_MODEL: spec},
            policy=self._policy,
            policies=PolicyConfig(look_s=1),
            patience=PATIENCE,
            least_hosts=hosts,
            generation=self.directory.next_generation(),
        )

    def hear(self, link: Link, message: Any) -> None:
        peer = self._peers.get(link)
        if peer is None:
            self._last_peer += 1
            peer = self._peers[link] = PeerId(self._last_peer)
            self._links[peer] = link
        now = self.directory.network.now
        self._do(self.coordinator.heard(peer, message, now_s=now))

    def lost(self, link: Link) -> None:
        peer = self._peers.pop(link, None)
        if peer is None:
            return
        del self._links[peer]
        now = self.directory.network.now
        self._do(self.coordinator.cut(peer, now_s=now))
        if not self._links and not self.coordinator.is_adopting:
            self.coordinator = self._new(hosts=1)  # it was out, and others went on

    def beat(self) -> None:
        super().beat()
        now = self.directory.network.now
        self._beats += 1
        self._do(self.coordinator.beat(now_s=now))
        if self._beats % 2 == 0:
            self._do(self.coordinator.tick(now_s=now))
        self._do(self.coordinator.wake(now_s=now))

    def _do(self, todo: Sequence[brain.Effect]) -> None:
        self._events += 1
        if self._events % RECOUNT == 0:
            self.coordinator.machine.ledger.check()
            self.coordinator.controller.check()
        for effect in todo:
            match effect:
                case brain.Send(message=words.Beat()):
                    pass  # as every program does by itself
                case brain.Send():
                    link = self._links.get(effect.to)
                    if link is not None:
                        link.send(self.process, effect.message)
                case brain.HangUp():
                    link = self._links.get(effect.peer)
                    if link is not None:
                        link.cut(self.process)

"""The program of a simulated front end: its clients check what they get."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts import relay as front_side
from mell_jax.scheduler.hosts.wishes import Wish, WishAnswer
from mell_jax.scheduler.ids import Epoch, FrontId, RequestId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from tests.scheduler.hosts.host_program import LINEAGE_BITS
from tests.scheduler.hosts.network import Link
from tests.scheduler.hosts.programs import Directory, Hello, Parts, Program, pages_of
from tests.scheduler.migration.jobs import Job, ViolationError


class Client:
    """The requests of a front end, and what they have got."""

    def __init__(self) -> None:
        self.got: dict[RequestId, int] = {}
        self.lineages: dict[RequestId, int] = {}
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
        self._links: dict[Epoch, Link] = {}
        self._epochs: dict[Link, Epoch] = {}
        self._wishes: dict[int, Wish] = {}  # that wait for an answer
        self._last_ticket = 0

    def wish(self, wish: Wish) -> None:
        """An operator wants something."""
        if self.controller is not None:
            self._last_ticket += 1
            asked = replace(wish, ticket=self._last_ticket)
            self._wishes[self._last_ticket] = asked
            self.send_controller(asked)

    def ask(self, job: Job) -> None:
        """A client asks."""
        self.client.got[job.request] = 0
        ask = words.Ask(
            request=job.request,
            model=ONLY_MODEL,
            prompt=job.prompt,
            known=job.prompt,
            pages=pages_of(ONLY_MODEL, job.prompt),
            peak_pages=job.max_pages,
        )
        self._do(self.relay.ask(ask))

    def cancel(self, request: RequestId) -> None:
        """A client leaves."""
        if request in self.client.got and request not in self.client.complete:
            self.client.cancelled.add(request)
            self._do(self.relay.close(request))

    def hear(self, link: Link, message: Any) -> None:
        if isinstance(message, get_args(WishAnswer)):
            if self._wishes.pop(message.ticket, None) is None:
                raise ViolationError(f"nobody waits for {message}")
            self.directory.network.counts[type(message).__name__] += 1
        elif link is self.controller:
            self._do(self.relay.hear_controller(message))
        elif link in self._epochs:
            self._do(self.relay.hear_host(self._epochs[link], message))

    def lost(self, link: Link) -> None:
        if link is self.controller:
            self.controller = None
            self._wishes.clear()
            self._do(self.relay.cut_controller())
        epoch = self._epochs.pop(link, None)
        if epoch is not None:
            del self._links[epoch]
            self._do(self.relay.cut_host(epoch))

    def beat(self) -> None:
        super().beat()
        if self.find_controller():
            self._do(self.relay.meet_controller())
        self._do(self.relay.beat())

    def break_streams(self) -> None:
        """Has all streams begin again, as if no more tokens of their copies came."""
        for stream in list(self.relay.streams.values()):
            if stream.latest is not None:
                self.relay._break(stream)
        self._do(self.relay._done())

    def _do(self, todo: Sequence[front_side.Effect]) -> None:
        for effect in todo:
            match effect:
                case front_side.ToController():
                    self.send_controller(effect.message)
                case front_side.ToHost():
                    link = self._links.get(effect.epoch)
                    if link is not None:
                        link.send(self.process, effect.message)
                case front_side.Reach():
                    self._reach(effect.host)
                case front_side.Leave():
                    self._leave(effect.epoch)
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
        self._links[host.epoch], self._epochs[link] = link, host.epoch
        hello = Hello(self.name, epoch=host.epoch, front=self.front)
        link.send(self.process, hello)
        self._do(self.relay.reached(host.epoch))

    def _leave(self, epoch: Epoch) -> None:
        link = self._links.pop(epoch, None)
        if link is not None:
            del self._epochs[link]
            link.cut(self.process)

    def _pass(self, row: words.Row) -> None:
        job, client = self.jobs[row.request], self.client
        at = client.got[row.request]
        if row.start != at:
            raise ViolationError(f"{row} comes at {at}")
        if row.request in client.complete or row.request in client.cancelled:
            raise ViolationError(f"{row} after its end")
        for index, token in enumerate(row.tokens, at):
            self._check_token(row, token, index)
        client.got[row.request] = at + len(row.tokens)
        is_whole = client.got[row.request] == job.output
        if row.is_end != is_whole:
            raise ViolationError(f"{row} ends at {client.got[row.request]}")
        if row.is_end:
            client.complete.add(row.request)
            self._do(self.relay.close(row.request))

    def _check_token(self, row: words.Row, token: int, index: int) -> None:
        """It is the right one, computed after those that the client has."""
        lineage, value = token >> LINEAGE_BITS, token & (1 << LINEAGE_BITS) - 1
        if value != self.jobs[row.request].token(index):
            raise ViolationError(f"{row} is wrong at {index}")
        if self.client.lineages.get(row.request) == lineage:
            return
        begin = self.directory.lineages[lineage].begin
        if begin != index:
            raise ViolationError(f"{row}: computed from {begin} on, taken at {index}")
        self.client.lineages[row.request] = lineage

"""A front end's links to the fleet, and its requests, as an event loop drives them.

Submit, Abort -> relay -> controller, hosts
frames <- rows that the relay takes <- frames of hosts
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, final

from absl import logging

from mell_jax.engine.admin import AbortOpen, Answer, Command, RequestsAborted
from mell_jax.engine.frames import (
    Abort,
    EngineStopped,
    Finished,
    FinishReason,
    StepFrame,
    Submit,
)
from mell_jax.engine.hosts.load import HostLoad
from mell_jax.engine.intake import refusal
from mell_jax.engine.params import InvalidRequestError
from mell_jax.hosts import operator
from mell_jax.hosts.follow import Follower
from mell_jax.hosts.gather import Gathered, told_rows
from mell_jax.hosts.kept_tasks import KeptTasks
from mell_jax.hosts.link import Link, LinkConfig, connect
from mell_jax.hosts.loads import NO_LOAD, HostLoads
from mell_jax.hosts.open_requests import OpenRequests
from mell_jax.hosts.open_wishes import OpenWishes, Wanted
from mell_jax.hosts.seek import Seeking
from mell_jax.hosts.view import HostsViewer
from mell_jax.hosts.wire import (
    Addresses,
    Hello,
    HostFrame,
    OpeningParcel,
    Served,
    Welcome,
)
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts import relay as front_side
from mell_jax.scheduler.hosts.relay import Relay
from mell_jax.scheduler.hosts.view import Overview
from mell_jax.scheduler.hosts.wishes import (
    AsideDone,
    MoveDone,
    PolicyDone,
    WishRefused,
)
from mell_jax.scheduler.ids import (
    Epoch,
    FrontId,
    ModelId,
)
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError

Frame = StepFrame | EngineStopped
"""What there is to say to clients."""


@final
class FrontProgram:
    """The program of one front end, within one loop.

    Args:
      controller: its address.
      name: of this front end, in logs.
      links: how they are made.
      on_front: hears which front end of the fleet this is, once that is known.
      on_frame: takes what there is to say to clients.

    Attributes:
      models: what the fleet serves; empty before it is met.
      load: how busy the fleet is, and how it looks, as of the latest beat.
      seen_hosts: names of hosts that are or have been in the fleet.
      rounds: grows with every beat.
    """

    def __init__(
        self,
        controller: str,
        *,
        name: str,
        links: LinkConfig,
        on_front: Callable[[FrontId], None],
        on_frame: Callable[[Frame], None],
    ) -> None:
        self.models: tuple[Served, ...] = ()
        self.load = NO_LOAD
        self.seen_hosts: frozenset[str] = frozenset()
        self.rounds = 0
        self._on_front = on_front
        self._on_frame = on_frame
        self._name = name
        self._seeking = Seeking(controller)
        self._config = links
        self._front = FrontId(0)
        self._relay: Relay | None = None
        self._controller: Link | None = None
        self._addresses: dict[str, str] = {}
        self._hosts: dict[Epoch, Link] = {}
        self._open = OpenRequests(self._front, models=())
        self._wishes = OpenWishes()
        self._gathered = Gathered()
        self._follower = Follower(clock=time.monotonic)
        self._viewer: HostsViewer | None = None  # before the fleet is met
        self._loads = HostLoads()
        self._tasks = KeptTasks(
            "the front end's links have failed", failed=self._break_off
        )

    @property
    def controller(self) -> str:
        """Returns the address where the controller is looked for."""
        return self._seeking.address

    def answer(self, command: Command, found: Future[Answer]) -> None:
        """Answers a command of an operator, or has the controller carry it out."""
        if not found.set_running_or_notify_cancel():
            return
        self._look()
        if isinstance(command, AbortOpen):
            handles = tuple(self._open)
            self.take(Abort(handles=handles))
            found.set_result(RequestsAborted(aborted=len(handles)))
            return
        if isinstance(command, Wanted):
            self._want(command, found)
            return
        try:
            found.set_result(
                operator.answer(
                    command,
                    overview=self._viewer.overview if self._viewer else None,
                    view=self.load.fleet,
                    handle_of=self._follower.handle,
                )
            )
        except (NotPossibleError, UnknownTargetError) as error:
            found.set_exception(error)

    def _want(self, command: Wanted, found: Future[Answer]) -> None:
        if self._controller is None:
            away = NotPossibleError("the controller is away; ask again in some seconds")
            found.set_exception(away)
        else:
            self._controller.send(self._wishes.begin(command, found))

    def leave(self) -> None:
        """Ends all links; hosts drop what was this front end's."""
        self._wishes.cut()
        for link in [*self._hosts.values(), *filter(None, [self._controller])]:
            link.cut()
        self._controller = None  # what is asked from now on is refused

    async def live(self) -> None:
        """Finds the controller, again and again, and counts beats."""
        while True:
            if self._controller is None:
                await self._find_controller()
            await asyncio.sleep(self._config.beat_s)
            await asyncio.sleep(0)  # what was said meanwhile comes first
            self.rounds += 1
            if self._relay is not None:
                self._do(self._relay.beat())
            self._look()
            for link in [*self._hosts.values(), *filter(None, [self._controller])]:
                link.beat()

    async def _find_controller(self) -> None:
        front = self._front if self._relay is not None else None
        hello = Hello(role="front", name=self._name, front=front)
        link = await self._seeking.seek(hello=hello, config=self._config)
        if link is None:
            return
        self._controller = link
        self._tasks.keep(
            link.run(hear=self._hear_controller, on_cut=self._lost_controller)
        )

    def _hear_controller(self, message: Any) -> None:
        match message:
            case Welcome():
                self._meet(message)
            case Addresses():
                self._addresses = message.by_name
            case words.Beat():
                pass
            case Overview():
                self._hear_overview(message)
            case MoveDone() | AsideDone() | PolicyDone() | WishRefused():
                self._wishes.hear(message)
            case _:
                self._see_hosts(message)
                self._do(self._relayed.hear_controller(message))

    def _see_hosts(self, message: Any) -> None:
        match message:
            case words.Hosts(hosts=came) | words.HostsChanged(came=came):
                self.seen_hosts |= {host.name for host in came}

    def _hear_overview(self, overview: Overview) -> None:
        if self._viewer is not None:
            self._viewer.hear(overview)
            self._look()

    def _look(self) -> None:
        """Notes how busy the fleet is, for whoever asks on any thread."""
        whole = self._loads.whole()
        view = self._viewer.view(whole) if self._viewer is not None else None
        preemptions = whole.load.preemptions
        if view is not None:
            preemptions += view.stats.preemptions
        self.load = replace(whole.load, fleet=view, preemptions=preemptions)

    def _meet(self, welcome: Welcome) -> None:
        if self._relay is None:
            self.models, self._front = welcome.models, welcome.front
            self._open = OpenRequests(self._front, models=self.models)
            specs = {ModelId(m.info.model_name): m.spec.cache for m in self.models}
            self._relay = Relay(
                self._front,
                slot=1 + self._front % (words.STRIDE - 1),
                pages_of=lambda model, tokens: specs[model].held_by(tokens),
            )
            self._viewer = HostsViewer(
                self._follower,
                capacity_pages={
                    ModelId(m.info.model_name): m.spec.capacity_pages
                    for m in self.models
                },
                clock=time.monotonic,
            )
            self._on_front(self._front)
        self._do(self._relay.meet_controller())

    def _lost_controller(self) -> None:
        self._controller = None
        self._wishes.cut()
        if self._relay is not None:
            logging.warning("the controller is gone: requests go on without it")
            self._do(self._relay.cut_controller())

    @property
    def _relayed(self) -> Relay:
        assert self._relay is not None, "the controller's first word is a welcome"
        return self._relay

    # Hosts.

    async def _reach(self, host: words.Host) -> None:
        hello = Hello(
            role="front", name=self._name, epoch=host.epoch, front=self._front
        )
        try:
            link = await connect(
                self._addresses.get(host.name, ""), hello=hello, config=self._config
            )
        except (OSError, TimeoutError, ValueError) as error:
            logging.warning("host %s cannot be reached: %s", host.name, error)
            self._do(self._relayed.cut_host(host.epoch))
            return
        self._hosts[host.epoch] = link
        self._loads.begin(host.epoch, name=host.name)
        self._tasks.keep(
            link.run(
                hear=lambda message: self._hear_host(host.epoch, message),
                on_cut=lambda: self._lost_host(host.epoch, link),
            )
        )
        self._do(self._relayed.reached(host.epoch))

    def _hear_host(self, epoch: Epoch, message: Any) -> None:
        match message:
            case HostFrame():
                for row in told_rows(message):
                    self._do(self._relayed.hear_host(epoch, row))
                self._flush()
            case HostLoad():
                self._loads.tell(epoch, message)
            case words.Gone() | words.Rooms():
                self._do(self._relayed.hear_host(epoch, message))

    def _lost_host(self, epoch: Epoch, link: Link) -> None:
        if self._hosts.get(epoch) is link:
            del self._hosts[epoch]
            self._loads.forget(epoch)
            self._do(self._relayed.cut_host(epoch))

    # Requests.

    def take(self, message: Submit | Abort) -> None:
        """Takes what a client wants."""
        match message:
            case Submit():
                self._submit(message)
            case Abort():
                for handle in message.handles:
                    end = Finished(handle=handle, reason=FinishReason.ABORT)
                    self._end(end)
        self._flush()

    def _submit(self, submit: Submit) -> None:
        try:
            ask = self._open.begin(submit)
        except InvalidRequestError as error:
            self._gathered.end(refusal(submit, error))
            return
        self._follower.begin(ask.request, handle=submit.handle)
        self._do(self._relayed.ask(ask))

    def _end(self, finished: Finished) -> None:
        """Ends a request; one that is not open is ignored."""
        request = self._open.end(finished.handle)
        if request is not None:
            self._gathered.end(finished)
            self._follower.end(request)
            self._do(self._relayed.close(request))

    # What the relay says.

    def _do(self, todo: Sequence[front_side.Effect]) -> None:
        for effect in todo:
            match effect:
                case front_side.ToController():
                    if self._controller is not None:
                        self._controller.send(effect.message)
                case front_side.ToHost():
                    self._send_host(effect)
                case front_side.Reach():
                    self._keep(self._reach(effect.host))
                case front_side.Leave():
                    self._leave_host(effect.epoch)
                case front_side.Pass():
                    self._pass(effect.row)
                case front_side.Fail():
                    self._fail(effect)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.keep(asyncio.get_running_loop().create_task(work))

    def _leave_host(self, epoch: Epoch) -> None:
        link = self._hosts.pop(epoch, None)
        self._loads.forget(epoch)
        if link is not None:
            link.cut()

    def _fail(self, effect: front_side.Fail) -> None:
        opened = self._open.get(effect.request)
        if opened is not None:
            self._end(
                Finished(
                    handle=opened.handle,
                    reason=FinishReason.ERROR,
                    message=effect.reason,
                )
            )

    def _send_host(self, effect: front_side.ToHost) -> None:
        link, message = self._hosts.get(effect.epoch), effect.message
        if link is None:
            return
        if not isinstance(message, words.Opening):
            link.send(message)
            return
        opened = self._open.get(message.message.request)
        if opened is None:
            return  # it is over, as the controller is about to hear
        self._follower.open(message)
        link.send(
            OpeningParcel(
                device=message.device,
                since=message.since,
                pages=message.pages,
                message=message.message,
                submit=opened.submit,
                seed=opened.seed,
                tokens=opened.known(message.message),
            )
        )

    def _pass(self, row: words.Row) -> None:
        opened = self._open[row.request]
        opened.tokens += row.tokens
        self._follower.take(row)
        finished = self._gathered.add(row, handle=opened.handle)
        if finished is not None:
            self._end(finished)

    def _flush(self) -> None:
        """Hands over what was gathered, as one frame."""
        frame = self._gathered.take()
        if frame is not None:
            self._follower.see(frame)
            self._on_frame(frame)

    def _break_off(self, error: BaseException) -> None:
        """Ends service after a bug, for nobody would be answered."""
        self._on_frame(EngineStopped(message=f"{type(error).__name__}: {error}"))

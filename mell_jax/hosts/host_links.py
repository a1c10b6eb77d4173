"""An engine host's links: they bring its engine what others say, and take what it says.

    controller, front ends, other hosts  <->  event loop  <->  engine's thread
    pages of other hosts                 <->  threads of their own  <->

The engine leaves messages (`Wires`) from its own thread; the loop passes on what comes
by `Host.post`. Pages are fetched from the device, and put on it, beside both.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, final

from absl import logging

from mell_jax.engine.hosts import wires
from mell_jax.engine.hosts.load import HostLoad
from mell_jax.engine.hosts.wires import Heard
from mell_jax.hosts import news
from mell_jax.hosts.address import split_address
from mell_jax.hosts.kept_tasks import KeptTasks
from mell_jax.hosts.link import Link, LinkConfig, connect
from mell_jax.hosts.listener import Listener, listen
from mell_jax.hosts.pages.buffers import Buffers
from mell_jax.hosts.pages.choice import PagesBy
from mell_jax.hosts.pages.connection import Connection, dial, take_in
from mell_jax.hosts.pages.landing import Landing
from mell_jax.hosts.pages.lane import Lane
from mell_jax.hosts.pages.parcels import Unpacking, parcel_of
from mell_jax.hosts.pages.transfers import Transfers, start_transfers
from mell_jax.hosts.peer_link import PeerLink
from mell_jax.hosts.seek import Seeking
from mell_jax.hosts.split import part_of
from mell_jax.hosts.wire import (
    Addresses,
    Hello,
    OpeningParcel,
    Parcel,
    Served,
    Unwelcome,
)
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import DeviceGroupId, Epoch, FrontId
from mell_jax.worker.group import DeviceGroup

_KEPT_BYTES = 2**28
"""So much memory for pages that come is kept while none do."""


@final
class HostLinks:
    """The links of one host; `Wires` for its engine.

    Args:
      name: of the host, unique in its fleet.
      address: where it listens for front ends and other hosts.
      controller: its address.
      on_epoch: hears under which epoch it is admitted; None: under none any more.
      on_refused: hears why the controller does not let it in.
      pages_by: how pages go to other hosts.
    """

    def __init__(
        self,
        name: str,
        *,
        address: str,
        controller: str,
        config: LinkConfig,
        on_epoch: Callable[[Epoch | None], None] = lambda _: None,
        on_refused: Callable[[str], None] = lambda _: None,
        pages_by: PagesBy = "sockets",
    ) -> None:
        self._on_refused = on_refused
        self._seeking = Seeking(controller)
        self._on_epoch = on_epoch
        self._pages_by = pages_by
        self._transfers: Transfers | None = None
        self._name = name
        self._address = address
        self._config = config
        self._models: tuple[Served, ...] = ()
        self._post: Callable[[Heard], None] = lambda _: None
        self._landing: Landing | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="mell-links", daemon=True
        )
        self._server: Listener | None = None
        self._controller: Link | None = None
        self._fronts: dict[FrontId, Link] = {}
        self._peers: dict[Epoch, list[PeerLink]] = {}
        self._early: list[Link] = []  # of an epoch that is not known yet
        self._addresses: dict[str, str] = {}
        self._epoch: Epoch | None = None
        self._tasks = KeptTasks("a task of the host's links has failed")

    def start(
        self,
        *,
        models: tuple[Served, ...],
        post: Callable[[Heard], None],
        group_of: Callable[[DeviceGroupId], DeviceGroup | None],
    ) -> str:
        """Listens, and looks for the controller; returns where it listens.

        Args:
          models: what the host can serve.
          post: takes what comes, from any thread.
          group_of: returns the devices that an instance of this host has.

        Raises:
          OSError: the address cannot be listened on.
        """
        self._models, self._post = models, post
        if self._pages_by != "sockets":
            self._transfers = start_transfers(self._address)
        self._landing = Landing(
            partial(take_in, secret=self._config.secret, tls=self._config.server),
            unpacking=Unpacking(
                group_of,
                buffers=Buffers(most_bytes=_KEPT_BYTES),
                transfers=self._transfers,
            ),
            is_linked=self._peers.__contains__,
            post=post,
            measured=partial(self._soon, self._send_controller),
            clock=self._loop.time,
        )
        self._thread.start()
        begun = asyncio.run_coroutine_threadsafe(self._begin(), self._loop)
        return begun.result()

    def stop(self) -> None:
        """Ends all links."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- Wires, on the engine's thread -------------------------------------------------

    @property
    def fronts(self) -> tuple[FrontId, ...]:
        return tuple(self._fronts)

    def to_controller(self, message: words.FromHost) -> None:
        self._soon(self._send_controller, message)

    def to_front(self, front: FrontId, message: words.HostToFront) -> None:
        self._soon(self._send_front, front, message)

    def to_fronts(self, frame: wires.HostFrame) -> None:
        for front in self.fronts:
            part = part_of(frame, front=front)
            if part is not None:
                self._soon(self._send_front, front, part)

    def tell_load(self, load: HostLoad) -> None:
        for front in self.fronts:
            self._soon(self._send_front, front, load)

    def to_peer(self, host: words.Host, parcel: wires.Parcel) -> None:
        self._soon(self._send_peer, host, parcel)

    def hang_up(self) -> None:
        self._soon(self._cut_all)

    # The loop.

    def _soon(self, call: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon_threadsafe(call, *args)

    async def _begin(self) -> str:
        assert self._landing is not None
        self._server = await listen(
            self._address,
            config=self._config,
            greet=self._greet,
            greet_pages=self._landing.take_in,
        )
        host, port = self._server.address
        self._address = f"{host}:{port}"
        self._tasks.keep(self._loop.create_task(self._live()))
        return self._address

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        self._tasks.cancel_all()
        self._cut_all()
        if self._controller is not None:
            self._controller.cut()
        await asyncio.sleep(0)

    async def _live(self) -> None:
        while True:
            if self._controller is None:
                await self._find_controller()
            await asyncio.sleep(self._config.beat_s)
            await asyncio.sleep(0)  # what was said meanwhile comes first
            self._early = [link for link in self._early if link.is_up]
            links = [*self._fronts.values(), *self._early]
            for link in [*links, *filter(None, [self._controller])]:
                link.beat()
            self._beat_pages()
            self._post(wires.Pulse())

    def _beat_pages(self) -> None:
        patience = self._config.patience
        for peer in [peer for peers in self._peers.values() for peer in peers]:
            peer.beat(patience=patience)
        assert self._landing is not None
        self._landing.beat(patience=patience)

    async def _find_controller(self) -> None:
        hello = Hello(
            role="host", name=self._name, address=self._address, models=self._models
        )
        link = await self._seeking.seek(hello=hello, config=self._config)
        if link is None:
            return
        self._controller = link
        self._tasks.keep(
            link.run(hear=self._hear_controller, on_cut=self._lost_controller)
        )
        self._post(wires.MetController())

    def _hear_controller(self, message: Any) -> None:
        match message:
            case Addresses():
                self._addresses = message.by_name
            case words.Beat():
                pass
            case Unwelcome():
                self._on_refused(message.reason)
            case words.Admit():
                self._epoch = message.epoch
                self._on_epoch(message.epoch)
                news.tell_own_epoch(message.epoch)
                self._post(wires.FromController(message=message))
                self._greet_early()
            case words.Fenced():
                self._epoch = None
                news.tell_own_fence(message.reason)
                self._on_epoch(None)
                self._post(wires.FromController(message=message))
            case _:
                self._post(wires.FromController(message=message))

    def _lost_controller(self) -> None:
        self._controller = None
        logging.warning("the controller is gone: the host computes on without it")
        self._post(wires.CutController())

    def _cut_all(self) -> None:
        for link in list(self._fronts.values()):
            link.cut()
        self._fronts.clear()
        for peer in [peer for peers in self._peers.values() for peer in peers]:
            peer.cut()

    # Front ends.

    async def _greet(self, link: Link) -> None:
        hello = link.hello
        assert hello is not None, "a link that was accepted has its hello"
        if hello.role == "peer" and hello.epoch is not None:
            self._greet_peer(link, hello.epoch)
        elif hello.role == "front" and hello.front is not None:
            self._greet_front(link)
        else:
            link.cut()

    def _greet_front(self, link: Link) -> None:
        hello = link.hello
        assert hello is not None and hello.front is not None
        if hello.epoch != self._epoch:
            if (hello.epoch or 0) > (self._epoch or 0):
                self._early.append(link)  # word of its own admission is on the way
            else:
                link.cut()  # it means another one, which is gone
            return
        front = hello.front
        older = self._fronts.get(front)
        if older is not None:  # whose end is yet to be heard
            self._lost_front(front, older)
            older.cut()
        self._fronts[front] = link
        self._tasks.keep(
            link.run(
                hear=lambda message: self._hear_front(front, message),
                on_cut=lambda: self._lost_front(front, link),
            )
        )

    def _greet_early(self) -> None:
        early, self._early = self._early, []
        for link in early:
            self._greet_front(link)

    def _hear_front(self, front: FrontId, message: Any) -> None:
        match message:
            case OpeningParcel():
                opening = words.Opening(
                    device=message.device,
                    since=message.since,
                    pages=message.pages,
                    message=message.message,
                )
                parcel = wires.OpeningParcel(
                    opening=opening,
                    submit=message.submit,
                    seed=message.seed,
                    tokens=message.tokens,
                )
                self._post(wires.FromFront(front=front, message=parcel))
            case words.Drop():
                self._post(wires.FromFront(front=front, message=message))

    def _lost_front(self, front: FrontId, link: Link) -> None:
        if self._fronts.get(front) is link:
            del self._fronts[front]
            self._post(wires.CutFront(front=front))

    def _send_front(self, front: FrontId, message: Any) -> None:
        link = self._fronts.get(front)
        if link is not None:
            link.send(message)

    def _send_controller(self, message: words.FromHost) -> None:
        if self._controller is not None:
            self._controller.send(message)

    # Other hosts.

    def _greet_peer(self, link: Link, epoch: Epoch) -> None:
        assert link.hello is not None
        self._run_peer(self._new_peer(link.hello.name, epoch), link)

    def _new_peer(self, name: str, epoch: Epoch) -> PeerLink:
        peer = PeerLink(
            epoch,
            open_lane=lambda: self._open_lane(name, peer),
            lost=self._lost_peer,
        )
        self._peers.setdefault(epoch, []).append(peer)
        return peer

    def _run_peer(self, peer: PeerLink, link: Link) -> None:
        self._tasks.keep(link.run(hear=self._hear_peer, on_cut=peer.cut))
        peer.begin(link)

    def _hear_peer(self, message: Any) -> None:
        if isinstance(message, Parcel):
            self._post(parcel_of(message, chunks=()))

    def _send_peer(self, host: words.Host, parcel: wires.Parcel) -> None:
        peers = self._peers.get(host.epoch)
        if peers is None:
            peer = self._new_peer(host.name, host.epoch)
            self._tasks.keep(self._loop.create_task(self._reach(host, peer)))
        else:
            peer = peers[0]
        peer.put(parcel)

    async def _reach(self, host: words.Host, peer: PeerLink) -> None:
        hello = Hello(role="peer", name=self._name, epoch=self._epoch)
        try:
            link = await connect(
                self._addresses.get(host.name, ""), hello=hello, config=self._config
            )
        except (OSError, TimeoutError, ValueError) as error:
            logging.warning("host %s cannot be reached: %s", host.name, error)
            peer.cut()
            return
        self._run_peer(peer, link)

    def _open_lane(self, name: str, peer: PeerLink) -> Lane:
        hello = Hello(role="pages", name=self._name, epoch=self._epoch)
        return Lane(
            name,
            dial=lambda: self._dial(name, hello),
            failed=lambda: self._soon(peer.cut),
            pages_by=self._pages_by,
            transfers=self._transfers,
        )

    def _dial(self, name: str, hello: Hello) -> Connection:
        """Connects to a host, from a lane's thread."""
        try:
            host, port = split_address(self._addresses.get(name, ""))
        except ValueError as error:
            raise ConnectionError(f"where it is is not known: {error}") from error
        return dial(
            host,
            port,
            hello=hello,
            secret=self._config.secret,
            tls=self._config.client,
        )

    def _lost_peer(self, lost: PeerLink) -> None:
        """Ends all links to a host when one has, for what it had may be lost."""
        peers = self._peers.pop(lost.epoch, [])
        if peers:
            for peer in peers:
                peer.cut()
            assert self._landing is not None
            self._landing.cut(lost.epoch)
            self._post(wires.CutPeer(epoch=lost.epoch))

"""An engine host's links: they bring its engine what others say, and take what it says.

    controller, front ends, other hosts  <->  event loop  <->  engine's thread

The engine leaves messages (`Wires`) from its own thread; the loop passes on what comes
by `Host.post`. Pages are fetched from the device, and put on it, beside both.
"""

import asyncio
import math
import threading
import zlib
from collections.abc import Callable
from typing import Any, final

import jax
import numpy as np
from absl import logging

from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.frames import EngineLoad
from mell_jax.engine.hosts import wires
from mell_jax.engine.hosts.wires import Heard
from mell_jax.hosts.link import Link, LinkConfig, connect, listen
from mell_jax.hosts.split import part_of
from mell_jax.hosts.wire import (
    MAX_PARCEL_BYTES,
    PIECE_BYTES,
    Addresses,
    Hello,
    HostLoad,
    OpeningParcel,
    Parcel,
    Piece,
    Served,
)
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import DeviceGroupId, Epoch, FrontId
from mell_jax.scheduler.migration import messages
from mell_jax.scheduler.plan import Places
from mell_jax.serving.processes.wire import WireError
from mell_jax.worker.group import DeviceGroup

MEASURED_BYTES = 2**20
"""Fewer say more about the time that a message takes than about a link's speed."""


@final
class HostLinks:
    """The links of one host; `Wires` for its engine.

    Args:
      name: of the host, unique in its fleet.
      address: where it listens for front ends and other hosts.
      controller: its address.
    """

    def __init__(
        self, name: str, *, address: str, controller: str, config: LinkConfig
    ) -> None:
        self._name = name
        self._address = address
        self._controller_address = controller
        self._config = config
        self._models: tuple[Served, ...] = ()
        self._post: Callable[[Heard], None] = lambda _: None
        self._group_of: Callable[[DeviceGroupId], DeviceGroup | None] = lambda _: None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="mell-links", daemon=True
        )
        self._server: asyncio.Server | None = None
        self._controller: Link | None = None
        self._fronts: dict[FrontId, Link] = {}
        self._peers: dict[Epoch, PeerLink] = {}
        self._early: list[Link] = []  # of an epoch that is not known yet
        self._addresses: dict[str, str] = {}
        self._epoch: Epoch | None = None
        self._tasks: set[asyncio.Task[None]] = set()

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
          post: takes what comes, on the loop's thread.
          group_of: returns the devices that an instance of this host has.

        Raises:
          OSError: the address cannot be listened on.
        """
        self._models, self._post, self._group_of = models, post, group_of
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

    def tell_load(self, load: EngineLoad) -> None:
        for front in self.fronts:
            self._soon(self._send_front, front, HostLoad(load=load))

    def to_peer(self, host: words.Host, parcel: wires.Parcel) -> None:
        self._soon(self._send_peer, host, parcel)

    def hang_up(self) -> None:
        self._soon(self._cut_all)

    # The loop.

    def _soon(self, call: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon_threadsafe(call, *args)

    async def _begin(self) -> str:
        self._server = await listen(
            self._address, config=self._config, greet=self._greet
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        self._address = f"{host}:{port}"
        self._keep(self._loop.create_task(self._live()))
        return self._address

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
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
            peers = [
                peer.link for peer in self._peers.values() if peer.link is not None
            ]
            self._early = [link for link in self._early if link.is_up]
            links = [*self._fronts.values(), *self._early, *peers]
            for link in [*links, *filter(None, [self._controller])]:
                link.beat()
            self._post(wires.Pulse())

    async def _find_controller(self) -> None:
        hello = Hello(
            role="host", name=self._name, address=self._address, models=self._models
        )
        try:
            link = await connect(
                self._controller_address, hello=hello, config=self._config
            )
        except (OSError, TimeoutError):
            return
        self._controller = link
        self._keep(link.run(hear=self._hear_controller, on_cut=self._lost_controller))
        self._post(wires.MetController())

    def _hear_controller(self, message: Any) -> None:
        match message:
            case Addresses():
                self._addresses = message.by_name
            case words.Beat():
                pass
            case words.Admit():
                self._epoch = message.epoch
                self._post(wires.FromController(message=message))
                self._greet_early()
            case words.Fenced():
                self._epoch = None
                logging.warning("this host was fenced: %s", message.reason)
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
        for peer in list(self._peers.values()):
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
        self._keep(
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
        peer = PeerLink(epoch, lost=self._lost_peer)
        self._peers[epoch] = peer
        self._run_peer(peer, link)

    def _run_peer(self, peer: "PeerLink", link: Link) -> None:
        inbox = Unpacking(
            self._group_of,
            post=self._post,
            measured=self._send_controller,
            clock=self._loop.time,
        )
        peer.begin(link)
        self._keep(link.run(hear=inbox.take, on_cut=peer.cut))
        self._keep(self._loop.create_task(peer.write()))

    def _send_peer(self, host: words.Host, parcel: wires.Parcel) -> None:
        peer = self._peers.get(host.epoch)
        if peer is None:
            peer = self._peers[host.epoch] = PeerLink(host.epoch, lost=self._lost_peer)
            self._keep(self._loop.create_task(self._reach(host, peer)))
        peer.put(parcel)

    async def _reach(self, host: words.Host, peer: "PeerLink") -> None:
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

    def _lost_peer(self, peer: "PeerLink") -> None:
        if self._peers.get(peer.epoch) is peer:
            del self._peers[peer.epoch]
            self._post(wires.CutPeer(epoch=peer.epoch))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logging.error("a task of the host's links has failed", exc_info=error)


@final
class PeerLink:
    """A link to another host, over which pages go in pieces, in order."""

    def __init__(self, epoch: Epoch, *, lost: Callable[["PeerLink"], None]) -> None:
        self.epoch = epoch
        self.link: Link | None = None
        self._lost = lost
        self._queue: asyncio.Queue[wires.Parcel] = asyncio.Queue()
        self._is_cut = False

    def begin(self, link: Link) -> None:
        """There is a connection now."""
        self.link = link

    def put(self, parcel: wires.Parcel) -> None:
        """Leaves a parcel to be sent."""
        self._queue.put_nowait(parcel)

    def cut(self) -> None:
        """Ends the link; heard once."""
        if not self._is_cut:
            self._is_cut = True
            if self.link is not None:
                self.link.cut()
            self._lost(self)

    async def write(self) -> None:
        """Sends parcels until the link ends."""
        assert self.link is not None, "there is a connection by now"
        while self.link.is_up:
            parcel = await self._queue.get()
            chunks = parcel.pages.chunks if parcel.pages is not None else ()
            arrays = await asyncio.to_thread(_fetch, chunks)
            self.link.send(_head(parcel, arrays))
            for array in arrays:
                await self._send_array(array)

    async def _send_array(self, array: "np.ndarray[Any, Any]") -> None:
        assert self.link is not None
        data = memoryview(array.tobytes())
        for at in range(0, len(data), PIECE_BYTES):
            piece = bytes(data[at : at + PIECE_BYTES])
            self.link.send(Piece(data=piece, crc=zlib.crc32(piece)))
            await self.link.drain()


def _fetch(chunks: tuple[jax.Array, ...]) -> list["np.ndarray[Any, Any]"]:
    """Brings pages to the host's memory; waits for them."""
    return [np.asarray(chunk) for chunk in chunks]


def _head(parcel: wires.Parcel, arrays: list["np.ndarray[Any, Any]"]) -> Parcel:
    none = np.zeros(0, np.int32)
    places = parcel.pages.places if parcel.pages is not None else None
    return Parcel(
        device=parcel.device,
        message=parcel.message,
        tokens=parcel.tokens,
        has_pages=places is not None,
        groups=places.groups if places is not None else none,
        along=places.along if places is not None else none,
        shapes=tuple(array.shape for array in arrays),
        dtype=str(arrays[0].dtype) if arrays else "",
    )


@final
class Unpacking:
    """Puts parcels together from their pieces, on the devices that they are for.

    Args:
      group_of: returns the devices of an instance; None if it is gone.
      post: takes whole parcels.
      measured: is told how long pages took, where there are enough to tell.
      clock: seconds.
    """

    def __init__(
        self,
        group_of: Callable[[DeviceGroupId], DeviceGroup | None],
        *,
        post: Callable[[Heard], None],
        measured: Callable[[words.LinkMeasured], None],
        clock: Callable[[], float],
    ) -> None:
        self._group_of = group_of
        self._post = post
        self._measured = measured
        self._clock = clock
        self._since_s = 0.0  # the head came
        self._head: Parcel | None = None
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)
        self._data = np.zeros(0, np.uint8)  # of all pages, as far as they have come
        self._came = 0  # bytes

    def take(self, message: Any) -> None:
        """Takes a parcel's head, or a piece of its pages.

        Raises:
          WireError: a piece is not what was sent, or nobody waits for it.
        """
        match message:
            case Parcel():
                self._begin(message)
            case Piece():
                self._add(message)

    def _begin(self, head: Parcel) -> None:
        if self._head is not None:
            raise WireError("a parcel begins before the one before has come")
        self._dtype = _dtype(head.dtype) if head.shapes else np.dtype(np.uint8)
        due = sum(_count(shape) for shape in head.shapes) * self._dtype.itemsize
        if not (due <= MAX_PARCEL_BYTES):
            raise WireError(
                f"a parcel of {due} bytes; at most {MAX_PARCEL_BYTES} are allowed"
            )
        self._head, self._since_s = head, self._clock()
        self._data, self._came = np.empty(due, np.uint8), 0
        self._finish_if_whole()

    def _add(self, piece: Piece) -> None:
        end = self._came + len(piece.data)
        if self._head is None or end > len(self._data):
            raise WireError("a piece of no parcel")
        if zlib.crc32(piece.data) != piece.crc:
            raise WireError("a piece has other bits than were sent")
        self._data[self._came : end] = np.frombuffer(piece.data, np.uint8)
        self._came = end
        self._finish_if_whole()

    def _finish_if_whole(self) -> None:
        head, data = self._head, self._data
        if head is None or self._came < len(data):
            return
        self._head, self._data = None, np.zeros(0, np.uint8)
        if isinstance(head.message, messages.Chunk) and len(data) >= MEASURED_BYTES:
            self._measured(
                words.LinkMeasured(
                    source=head.message.source,
                    device=head.device,
                    nbytes=len(data),
                    seconds=self._clock() - self._since_s,
                )
            )
        pages = self._pages(head, data) if head.has_pages else None
        self._post(
            wires.Parcel(
                device=head.device,
                message=head.message,
                pages=pages,
                tokens=head.tokens,
            )
        )

    def _pages(self, head: Parcel, data: "np.ndarray[Any, Any]") -> PageTransfer:
        group = self._group_of(head.device)
        chunks, at = [], 0
        for shape in head.shapes if group is not None else ():
            end = at + _count(shape) * self._dtype.itemsize
            array = data[at:end].view(self._dtype).reshape(shape)
            assert group is not None
            chunks.append(jax.device_put(array, group.pool_sharding))
            at = end
        places = Places(groups=head.groups, along=head.along)
        return PageTransfer(chunks=tuple(chunks), places=places)


def _count(shape: tuple[int, ...]) -> int:
    """Returns how many numbers an array has.

    Raises:
      WireError: no array is of that shape.
    """
    if not all(size >= 0 for size in shape):
        raise WireError(f"no array has the shape {shape!r:.100}")
    return math.prod(shape)


def _dtype(name: str) -> "np.dtype[Any]":
    """Returns a type of numbers by its name, also one that numpy has not.

    Raises:
      WireError: there is none.
    """
    try:
        dtype: np.dtype[Any] = jax.numpy.dtype(name)
    except TypeError as error:
        raise WireError(f"there is no type of numbers {name!r:.100}") from error
    if dtype.hasobject or not dtype.itemsize:
        raise WireError(f"pages have no numbers of type {name!r:.100}")
    return dtype

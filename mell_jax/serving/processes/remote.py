"""A front end in another process sees the engine like this.

Messages are read in the event loop: while it is busy they wait in the socket and come
together, so that ready tokens coalesce by themselves. All methods belong to the loop.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Self, cast, final

from mell_jax.engine.frames import (
    Abort,
    EngineInfo,
    EngineLoad,
    EngineStopped,
    Submit,
)
from mell_jax.frontend import Sink
from mell_jax.serving.processes.wire import (
    AbortRequests,
    Claimed,
    CountTold,
    DrainFrontEnd,
    Grown,
    Hurry,
    Pulse,
    StepMessage,
    ToEngine,
    Welcome,
    WireError,
    to_engine,
    to_front,
)

Order = DrainFrontEnd | Hurry | AbortRequests | Pulse
News = Pulse | CountTold | Grown | Claimed
ENGINE_GONE = "the engine's process has ended"


@final
class RemoteEngine(asyncio.Protocol):
    """Implements `EngineLink` at the front end's end of a socket pair.

    Attributes:
      orders: what the front end is told besides frames, in order.
    """

    def __init__(self) -> None:
        self._reader = to_front().reader()
        self._codec = to_engine()
        self._welcome: asyncio.Future[Welcome] = asyncio.Future()
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._hear: Callable[[News], None] = lambda _: None
        self.orders: asyncio.Queue[Order] = asyncio.Queue()
        self._load: EngineLoad | None = None
        self._stopped: EngineStopped | None = None

    @classmethod
    async def connect(cls, sock: socket.socket) -> tuple[Self, Welcome]:
        """Waits for the engine's first words.

        Raises:
          WireError: the other side is no engine, or has ended.
        """
        loop = asyncio.get_running_loop()
        _, remote = await loop.create_unix_connection(cls, sock=sock)
        return remote, await remote._welcome

    # -- EngineLink ----------------------------------------------------------------

    @property
    def infos(self) -> tuple[EngineInfo, ...]:
        return self._welcome.result().infos

    @property
    def is_alive(self) -> bool:
        return self._stopped is None

    def start(self, sink: Sink) -> None:
        """Passes the frames to `sink` from now on, in the event loop."""
        self._sink = sink
        if self._stopped is not None:
            sink(self._stopped)

    def send(self, message: Submit | Abort) -> None:
        self.tell(message)

    def load(self) -> EngineLoad:
        """Returns the latest step's load; its fleet is of the latest `Pulse`."""
        assert self._load is not None, "there is no load before the welcome"
        return self._load

    def stop(self) -> None:
        """Leaves; the engine goes on."""
        if self._transport is not None:
            self._transport.close()

    # -- beyond --------------------------------------------------------------------

    def tell(self, message: ToEngine) -> None:
        """Sends a message; one to an engine that is gone is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._codec.encode(message))

    def listen(self, hear: Callable[[News], None]) -> None:
        """Passes to `hear` from now on what there is to tell of other front ends."""
        self._hear = hear

    # -- asyncio.Protocol ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no child

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except WireError as error:
            self._end(str(error))
            return
        for message in messages:
            self._take(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ENGINE_GONE)

    def _take(self, message: object) -> None:
        match message:
            case StepMessage():
                kept = self.load()
                self._load = replace(message.load, fleet=kept.fleet, phases=kept.phases)
                if self._sink is not None:
                    self._sink(message.frame)
            case EngineStopped():
                self._end(message.message)
            case Welcome():
                self._load = message.load
                self._welcome.set_result(message)
            case Pulse():
                self._load = message.load
                self._hear(message)
                self.orders.put_nowait(message)
            case CountTold():
                self._load = message.load
                self._hear(message)
            case Grown() | Claimed():
                self._hear(message)
            case DrainFrontEnd() | Hurry() | AbortRequests():
                self.orders.put_nowait(message)

    def _end(self, message: str) -> None:
        if self._stopped is not None:
            return
        self._stopped = EngineStopped(message=message)
        if not self._welcome.done():
            self._welcome.set_exception(WireError(message))
        if self._sink is not None:
            self._sink(self._stopped)

"""Whoever connects to a process of a fleet is taken in here, on one port.

first bytes   FOR_LINKS  ->  TLS, proofs, on the event loop  ->  greet(link)
              FOR_PAGES  ->  a socket that blocks            ->  greet_pages(socket)
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, final

from absl import logging

from mell_jax.hosts.address import split_address
from mell_jax.hosts.kept_tasks import KeptTasks
from mell_jax.hosts.link import Link, LinkConfig
from mell_jax.hosts.pages.connection import CONNECT_S, FOR_LINKS, FOR_PAGES
from mell_jax.hosts.refusals import Refusals
from mell_jax.serving.processes.wire import WireError

_BACKLOG = 128


async def listen(
    address: str,
    *,
    config: LinkConfig,
    greet: Callable[[Link], Awaitable[None]],
    greet_pages: Callable[[socket.socket], None] = socket.socket.close,
) -> "Listener":
    """Listens at an address, and greets every link whose other end knows the secret.

    Args:
      greet_pages: takes sockets that are for pages, of which nothing is known yet.

    Raises:
      OSError: the address cannot be listened on.
    """
    host, port = split_address(address)
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, where = found[0]
    sock = socket.create_server(where[:2], family=family, backlog=_BACKLOG)
    sock.setblocking(False)
    return Listener(sock, config=config, greet=greet, greet_pages=greet_pages)


@final
class Listener:
    """A listener takes in who connects, until it is closed."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        config: LinkConfig,
        greet: Callable[[Link], Awaitable[None]],
        greet_pages: Callable[[socket.socket], None],
    ) -> None:
        self._socket = sock
        self._config = config
        self._greet = greet
        self._greet_pages = greet_pages
        self._loop = asyncio.get_running_loop()
        self._refusals = Refusals()
        self._tasks = KeptTasks("a connection was not taken in")
        self._keep(self._accept_all())

    @property
    def address(self) -> tuple[str, int]:
        """Returns host and port."""
        host, port, *_ = self._socket.getsockname()
        return host, port

    def close(self) -> None:
        """Takes in nobody any more; links that were made stay."""
        self._tasks.cancel_all()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    async def _accept_all(self) -> None:
        while True:
            try:
                sock, peer = await self._loop.sock_accept(self._socket)
            except OSError as error:  # it has left already, or files have run out
                logging.warning("a connection cannot be taken in: %s", error)
                await asyncio.sleep(0.1)
                continue
            sock.setblocking(False)
            self._keep(self._take_in(sock, peer))

    async def _take_in(self, sock: socket.socket, peer: object) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                way = await self._first_bytes(sock)
                link = await self._linked(sock) if way == FOR_LINKS else None
        except (OSError, WireError, EOFError) as error:
            self._refusals.tell(peer, error=error)
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        if link is not None:
            await self._greet(link)
        elif way == FOR_PAGES:
            sock.setblocking(True)
            self._greet_pages(sock)
        else:
            sock.close()

    async def _first_bytes(self, sock: socket.socket) -> bytes:
        """Returns what whoever connects says first, and not a byte more."""
        said = b""
        while len(said) < len(FOR_LINKS):
            more = await self._loop.sock_recv(sock, len(FOR_LINKS) - len(said))
            if not more:
                raise EOFError("it has hung up")
            said += more
        return said

    async def _linked(self, sock: socket.socket) -> Link:
        """Returns the link of who has proved that it knows the secret."""
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        tls = self._config.server
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=tls,
            ssl_handshake_timeout=CONNECT_S if tls else None,
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        link = Link(reader, writer, config=self._config)
        try:
            await link.accept()
        except BaseException:
            link.cut()
            raise
        return link

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.keep(self._loop.create_task(work))

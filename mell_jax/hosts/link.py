"""A link is a connection between two processes of a fleet, as an event loop has it.

    connect -> challenge, proof both ways -> messages, in order -> cut, heard once

Whoever does not know the fleet's secret gets no further than the challenge. A message
is written at once or waits, within a bound in bytes; a link that cannot be understood,
whose other end is silent for too many beats, or does not read, is cut.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from mell_jax.hosts.address import split_address
from mell_jax.hosts.pages.connection import CONNECT_S, FOR_LINKS, UNPROVEN_BYTES
from mell_jax.hosts.proof import (
    ConnectingProof,
    ListeningProof,
    RefusedError,
    check_kind,
)
from mell_jax.hosts.wire import Challenge, Hello, HostCodec, Proof
from mell_jax.scheduler.hosts.messages import Beat
from mell_jax.serving.processes.wire import WireError

MAX_UNSENT_BYTES = 2**28
_READ_BYTES = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """This is how the processes of a fleet find and trust each other.

    Attributes:
      secret: that all of them have; empty trusts whoever connects.
      patience: beats of silence after which a link is cut.
      beat_s: between two beats.
      server: of TLS, for those who listen; None for none.
      client: of TLS, for those who connect; None for none.
    """

    secret: bytes = b""
    patience: int = 10
    beat_s: float = 0.5
    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None


def own_address(towards: str) -> str:
    """Returns where this machine is, with any port, for who is at an address.

    Raises:
      ValueError: it is no address.
      OSError: no way leads there.
    """
    host, port = split_address(towards)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, kind, *_, there = found[0]
    with socket.socket(family, kind) as asks:
        asks.connect(there)  # sends nothing, but takes the way
        here: str = asks.getsockname()[0]
    return f"[{here}]:0" if family == socket.AF_INET6 else f"{here}:0"


@final
class Link:
    """A link has two ends; this is one. All methods belong to the event loop.

    Attributes:
      hello: what the other side said of itself; None at the end that connected.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        config: LinkConfig,
    ) -> None:
        self.hello: Hello | None = None
        self.is_up = True
        self._reader, self._writer = reader, writer
        self._config = config
        self._codec = HostCodec()
        self._messages = self._codec.reader()
        self._early: list[Any] = []  # came with the proofs
        self._silent = 0  # beats
        self._on_cut: Callable[[], None] = lambda: None

    def run(
        self, *, hear: Callable[[Any], None], on_cut: Callable[[], None]
    ) -> asyncio.Task[None]:
        """Begins to pass on what comes; `on_cut` is called once, in the end."""
        self._on_cut = on_cut
        return asyncio.get_running_loop().create_task(self._read(hear))

    def send(self, message: Any) -> None:
        """Sends a message; one over a link that is cut is lost."""
        if not self.is_up:
            return
        try:
            self._writer.write(self._codec.encode(message))
        except WireError:
            self.cut()
            return
        if self.unsent_bytes > MAX_UNSENT_BYTES:
            self.cut()

    @property
    def unsent_bytes(self) -> int:
        """Returns how much waits to be written."""
        return self._writer.transport.get_write_buffer_size()

    def beat(self) -> None:
        """Says that this end is there, and counts a beat of silence of the other."""
        self.send(Beat())
        self._silent += 1
        if self._silent > self._config.patience:
            self.cut()

    def cut(self) -> None:
        """Ends the link; what is on its way may be lost."""
        if not self.is_up:
            return
        self.is_up = False
        self._writer.transport.abort()
        on_cut, self._on_cut = self._on_cut, lambda: None
        asyncio.get_running_loop().call_soon(on_cut)

    async def _read(self, hear: Callable[[Any], None]) -> None:
        try:
            for message in self._early:
                self._take(message, hear)
            while self.is_up and (data := await self._reader.read(_READ_BYTES)):
                self._silent = 0
                for message in self._messages.feed(data):
                    self._take(message, hear)
        except (OSError, WireError, EOFError):
            pass  # it is of no more use, whatever the reason: both ends hear of the cut
        finally:
            self.cut()

    def _take(self, message: Any, hear: Callable[[Any], None]) -> None:
        if self.is_up:
            hear(message)

    # -- the beginning ---------------------------------------------------------------

    async def _next(self, kind: type[Any]) -> Any:
        """Returns the next message, which has to be of that type.

        Raises:
          RefusedError: it is not, or none comes.
        """
        while not self._early:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise RefusedError("the other side has hung up")
            self._early += self._messages.feed(data)
        message = self._early.pop(0)
        check_kind(message, kind)
        return message

    async def prove(self, hello: Hello) -> None:
        """Begins a link at the end that connects; see `accept`.

        Raises:
          RefusedError: the other side does not know the secret.
        """
        proof = ConnectingProof(self._config.secret, await self._first_word())
        self.send(hello)
        self.send(proof.proof())
        proof.check(await self._proof_of_listener())

    async def _first_word(self) -> Challenge:
        """Returns what whoever listens begins with.

        Raises:
          RefusedError: the other side has hung up before.
        """
        try:
            challenge: Challenge = await self._next(Challenge)
        except ConnectionError as error:
            hint = (
                ": it may not take our certificate; has the authority of its "
                "fleet_tls_ca signed our tls_cert?"
            )
            raise RefusedError(
                f"{error}, at once{hint if self._config.client else ''}"
            ) from error
        return challenge

    async def _proof_of_listener(self) -> Proof:
        """Returns the other side's proof, which it gives after it has seen ours.

        Raises:
          RefusedError: it gives none.
        """
        try:
            proof: Proof = await self._next(Proof)
        except ConnectionError as error:
            raise RefusedError(
                "whoever listens there has hung up at our proof: it has another secret "
                "(give both the same fleet_secret_file), or ends"
            ) from error
        return proof

    async def accept(self) -> Hello:
        """Begins a link at the end that listens; returns who connects.

        Raises:
          RefusedError: the other side does not know the secret.
        """
        self._messages = self._codec.reader(max_bytes=UNPROVEN_BYTES)
        proof = ListeningProof(self._config.secret)
        self.send(proof.challenge())
        hello: Hello = await self._next(Hello)
        self.send(proof.answer(await self._next(Proof), hello=hello))
        self._messages = self._codec.reader()  # nothing came yet: that is waited for
        self.hello = hello
        return hello


async def connect(address: str, *, hello: Hello, config: LinkConfig) -> Link:
    """Returns a link to whoever listens at an address.

    Raises:
      OSError: nobody does, or it is refused, or takes too long.
    """
    host, port = split_address(address)
    async with asyncio.timeout(CONNECT_S):
        reader, writer = await _open(host, port, tls=config.client)
        link = Link(reader, writer, config=config)
        try:
            await link.prove(hello)
        except WireError as error:
            link.cut()
            raise RefusedError(f"no process of a fleet is at {address}") from error
        except BaseException:
            link.cut()
            raise
        return link


async def _open(
    host: str, port: int, *, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects, and says that it is for a link."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, where) in enumerate(found, 1):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, where)
            await loop.sock_sendall(sock, FOR_LINKS)
            return await asyncio.open_connection(
                sock=sock, ssl=tls, server_hostname=host if tls else None
            )
        except OSError:
            sock.close()
            if number == len(found):
                raise
        except BaseException:
            sock.close()
            raise
    raise OSError(f"there is no address of {host}")

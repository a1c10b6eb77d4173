"""A connection for pages: a socket that blocks, for a thread of its own.

    dial, or take what has come in  ->  TLS  ->  proofs  ->  bytes into arrays, and out

One call of the system takes or gives a whole slice: the lock of the interpreter is held
hundreds of times less often than by an event loop, which an engine beside it notices.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, final

from mell_jax.hosts.proof import ConnectingProof, ListeningProof
from mell_jax.hosts.wire import Challenge, Hello, HostCodec, Proof
from mell_jax.serving.processes.wire import HEAD, WireError

FOR_LINKS = b"mell:link\n"
FOR_PAGES = b"mell:page\n"
"""Whoever connects says first, before TLS, what for; both are of one length."""
CONNECT_S = 5.0  # for a connection and its proofs
MAX_MESSAGE_BYTES = 2**24  # a parcel's head: its tokens, and places of its pages
UNPROVEN_BYTES = 2**20  # of a message by somebody who may not know the secret
SLICE_BYTES = 2**20
"""A connection that takes longer than its patience for so many bytes is given up."""
Kind = TypeVar("Kind")
See = Callable[[memoryview], None]


def ignore(_: memoryview) -> None:
    """Looks at a slice of bytes, and does nothing."""


@final
class Connection:
    """A connection belongs to one thread; only `beat` and `cut` may come from others.

    Attributes:
      is_idle: nothing is due.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.is_idle = False
        self._end_s = time.monotonic() + CONNECT_S  # of its proofs
        self._is_proven = False
        self._slices = 0  # that have gone or come
        self._seen = 0  # of them, at the latest beat
        self._silent = 0  # beats
        self._socket = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._codec = HostCodec()

    def trust(self) -> None:
        """From now on it may take its time: the other side has proved itself."""
        self._is_proven = True
        self._socket.settimeout(None)

    def send(self, message: object) -> None:
        """Sends a message.

        Raises:
          OSError: the connection is cut.
        """
        self.give(memoryview(self._codec.encode(message)))

    def receive(self, kind: type[Kind], *, most: int = MAX_MESSAGE_BYTES) -> Kind:
        """Waits for a message of that type, of at most so many bytes.

        Raises:
          OSError: the connection is cut.
          WireError: something else comes.
        """
        head = bytearray(HEAD.size)
        self.take(memoryview(head))
        size, number = HEAD.unpack(head)
        if not (size <= most):
            raise WireError(f"a message of {size} bytes; at most {most} are allowed")
        body = bytearray(size)
        self.take(memoryview(body))
        message: Any = self._codec.decode(number, memoryview(body))
        if not isinstance(message, kind):
            raise WireError(f"a {type(message).__name__} where {kind.__name__} is due")
        return message

    def give(self, data: memoryview, *, see: See = ignore) -> None:
        """Sends bytes, from where they are.

        Args:
          see: is shown each slice just before it goes.

        Raises:
          OSError: the connection is cut.
        """
        for part in _slices(data):
            see(part)
            at = 0
            while at < len(part):
                self._keep_time()
                at += self._socket.send(part[at:])
                self._slices += 1

    def take(self, into: memoryview, *, see: See = ignore) -> None:
        """Fills `into` with what comes.

        Args:
          see: is shown each slice when it has come.

        Raises:
          OSError: the connection is cut.
        """
        flags = 0 if self._is_tls else socket.MSG_WAITALL
        for part in _slices(into):
            at = 0
            while at < len(part):
                self._keep_time()
                count = self._socket.recv_into(part[at:], len(part) - at, flags)
                if not count:
                    raise ConnectionError("the other side has hung up")
                at += count
                self._slices += 1
            see(part)

    def _keep_time(self) -> None:
        if not self._is_proven:
            if not ((left_s := self._end_s - time.monotonic()) > 0.0):
                raise TimeoutError("the proofs take too long")
            self._socket.settimeout(left_s)

    def beat(self, *, patience: int) -> None:
        """Counts a beat; from any thread.

        More than `patience` of them without a byte, of those that are due, cut it.
        """
        is_silent = not self.is_idle and self._slices == self._seen
        self._silent = self._silent + 1 if is_silent else 0
        self._seen = self._slices
        if self._silent > patience:
            self.cut()

    def cut(self) -> None:
        """Ends it, and whatever waits for it; from any thread, and more than once."""
        with contextlib.suppress(OSError):  # it has ended by itself
            # Not TLS' own way, after which a thread might write without it.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the socket back; nobody uses it any more."""
        self._socket.close()


def dial(
    host: str,
    port: int,
    *,
    hello: Hello,
    secret: bytes,
    tls: ssl.SSLContext | None,
) -> Connection:
    """Returns a connection to whoever listens there, and has proved itself.

    Raises:
      OSError: nobody does, or it is refused, or takes too long.
      WireError: whoever it is says something else.
    """
    sock = socket.create_connection((host, port), timeout=CONNECT_S)
    try:
        sock.sendall(FOR_PAGES)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=host)
        connection = _begun(sock)
        challenge = connection.receive(Challenge, most=UNPROVEN_BYTES)
        proof = ConnectingProof(secret, challenge)
        connection.send(hello)
        connection.send(proof.proof())
        proof.check(connection.receive(Proof, most=UNPROVEN_BYTES))
        connection.trust()
        return connection
    except BaseException:
        sock.close()
        raise


def take_in(
    sock: socket.socket, *, secret: bytes, tls: ssl.SSLContext | None
) -> tuple[Connection, Hello]:
    """Returns a connection of who has proved itself, and who that is.

    Args:
      sock: has said `FOR_PAGES`; is closed if nothing comes of it.

    Raises:
      OSError: it does not know the secret, or takes too long.
      WireError: it says something else.
    """
    try:
        sock.settimeout(CONNECT_S)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_side=True)
        connection = _begun(sock)
        proof = ListeningProof(secret)
        connection.send(proof.challenge())
        hello = connection.receive(Hello, most=UNPROVEN_BYTES)
        theirs = connection.receive(Proof, most=UNPROVEN_BYTES)
        answer = proof.answer(theirs, hello=hello)
        connection.send(answer)
        connection.trust()
        return connection, hello
    except BaseException:
        sock.close()
        raise


def _slices(data: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(data), SLICE_BYTES):
        yield data[at : at + SLICE_BYTES]


def _begun(sock: socket.socket) -> Connection:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return Connection(sock)

"""A contained process and its owner exchange messages: length, then JSON."""

import socket
import struct
from typing import TypeVar

import msgspec

MessageT = TypeVar("MessageT", bound=msgspec.Struct)
_HEAD = struct.Struct("<I")


def send(sock: socket.socket, message: msgspec.Struct) -> None:
    """Sends one message.

    Raises:
      OSError: nobody is at the other end, or it does not read in time.
    """
    body = msgspec.json.encode(message)
    sock.sendall(_HEAD.pack(len(body)) + body)


def receive(sock: socket.socket, kind: type[MessageT]) -> MessageT | None:
    """Waits for one message; None when the other end has closed.

    Raises:
      OSError: it does not come in time.
    """
    head = _receive_bytes(sock, _HEAD.size)
    if head is None:
        return None
    body = _receive_bytes(sock, _HEAD.unpack(head)[0])
    return None if body is None else msgspec.json.decode(body, type=kind)


def _receive_bytes(sock: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)

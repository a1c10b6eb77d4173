"""A template's process and its parent exchange messages: length, then JSON."""

import socket
import struct
from typing import TypeVar

import msgspec

from mell_jax.text.chat_template import Variables

MAX_MEMORY_BYTES = 512 * 1024 * 1024
"""Of the address space of a template's process."""

_HEAD = struct.Struct("<I")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A template to compile."""

    text: str
    special: dict[str, str]  # tokens by what the template calls them
    limit_s: float  # for compiling it, and for one rendering


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """The template is ready, or `error` says why it is none."""

    error: str = ""


class Render(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation to render."""

    variables: Variables
    max_chars: int


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """The text, or `error` says why there is none."""

    text: str = ""
    error: str = ""


MessageT = TypeVar("MessageT", Source, Compiled, Render, Rendered)


def send(sock: socket.socket, message: Source | Compiled | Render | Rendered) -> None:
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

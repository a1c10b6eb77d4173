"""HTTP/2 by hand, for clients that break its rules: frames as bytes on a socket."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple


class Frame(NamedTuple):
    """What the other side sent."""

    kind: int
    flags: int
    stream: int
    body: bytes


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
CANCEL, ENHANCE_YOUR_CALM = 0x8, 0xB


def frame(kind: int, *, flags: int = 0, stream: int = 0, body: bytes = b"") -> bytes:
    """One frame: length, type, flags, stream, body."""
    head = struct.pack(">I", len(body))[1:] + bytes((kind, flags))
    return head + struct.pack(">I", stream) + body


HELLO = PREFACE + frame(SETTINGS)


def header_block(fields: dict[str, str]) -> bytes:
    """HPACK without its tables: every field spelled out."""
    block = b""
    for name, value in fields.items():
        assert len(name) < 127 and len(value) < 127
        block += b"\0" + bytes((len(name),)) + name.encode()
        block += bytes((len(value),)) + value.encode()
    return block


def call(path: str, *, stream: int, message: bytes) -> bytes:
    """A whole call of gRPC."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    body = b"\0" + struct.pack(">I", len(message)) + message
    return frame(
        HEADERS, flags=END_HEADERS, stream=stream, body=header_block(fields)
    ) + frame(DATA, flags=END_STREAM, stream=stream, body=body)


def reset(stream: int) -> bytes:
    """The end of a call that nobody wants any more."""
    return frame(RST_STREAM, stream=stream, body=struct.pack(">I", CANCEL))


@contextlib.contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    """A socket to host:port; waits for no answer longer than half a minute."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        yield raw


def read_frames(raw: socket.socket) -> Iterator[Frame]:
    """Frames until the other side ends."""
    with raw.makefile("rb") as file, contextlib.suppress(ConnectionError):
        while len(head := file.read(9)) == 9:
            body = file.read(int.from_bytes(head[:3], "big"))
            yield Frame(head[3], head[4], int.from_bytes(head[5:], "big"), body)


def send(raw: socket.socket, data: bytes) -> bool:
    """Whether the other side took it."""
    try:
        raw.sendall(data)
    except ConnectionError:
        return False
    return True


def goaway_code(end: Frame) -> int:
    """Why a connection ends."""
    assert end.kind == GOAWAY
    return int.from_bytes(end.body[4:8], "big")

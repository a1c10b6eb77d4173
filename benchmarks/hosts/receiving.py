"""The other side of `move.py` runs `python -m benchmarks.hosts.receiving BYTES`.

It takes pages as a host does, or bytes over a plain socket into memory that is there,
and says on its output at which ports.
"""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, final

import jax

from mell_jax.engine.hosts import wires
from mell_jax.hosts.link import LinkConfig
from mell_jax.hosts.listener import Listener, listen
from mell_jax.hosts.pages.buffers import Buffers
from mell_jax.hosts.pages.connection import take_in
from mell_jax.hosts.pages.landing import Landing
from mell_jax.hosts.pages.parcels import Unpacking

SECRET = b"of a benchmark's"


@final
class _Group:
    """One device, as `Unpacking` wants a group's."""

    def __init__(self) -> None:
        self.pool_sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _arrived(parcel: wires.Parcel) -> None:
    """Pages count once they are on their device; then they go."""
    assert parcel.pages is not None
    jax.block_until_ready(parcel.pages.chunks)


async def _take_pages() -> Listener:
    group: Any = _Group()
    landing = Landing(
        partial(take_in, secret=SECRET, tls=None),
        unpacking=Unpacking(lambda _: group, buffers=Buffers(most_bytes=2**28)),
        is_linked=lambda _: True,
        post=_arrived,
        measured=lambda _: None,
        clock=time.monotonic,
    )

    async def greet(_: object) -> None:
        raise AssertionError("nobody connects but for pages")

    return await listen(
        "127.0.0.1:0",
        config=LinkConfig(secret=SECRET),
        greet=greet,
        greet_pages=landing.take_in,
    )


def take_bytes(server: socket.socket, *, size: int) -> None:
    """Takes `size` bytes, again and again, and answers each time with one."""
    connection, _ = server.accept()
    buffer = memoryview(bytearray(size))
    while True:
        at = 0
        while at < size:
            count = connection.recv_into(buffer[at:])
            if not count:
                return
            at += count
        connection.sendall(b"!")


def _beside(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


async def _serve(size: int) -> None:
    pages = await _take_pages()
    plain = socket.create_server(("127.0.0.1", 0))
    _beside(lambda: take_bytes(plain, size=size))
    print(pages.address[1], plain.getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))

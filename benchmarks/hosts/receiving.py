"""The other side of `transfer.py` runs `python -m benchmarks.hosts.receiving`.

It takes pages over a link as hosts have it, or bytes over a plain socket, one size for
all, and answers each time with a word.
"""

import asyncio
import socket
import sys
import threading
from typing import Any, final

import jax

from mell_jax.engine.hosts import wires
from mell_jax.hosts.host_links import Unpacking
from mell_jax.hosts.link import Link, LinkConfig, listen
from mell_jax.scheduler.hosts.messages import Beat

CONFIG = LinkConfig(secret=b"of a benchmark's")


@final
class _Group:
    """One device, as `Unpacking` wants a group's."""

    def __init__(self) -> None:
        self.pool_sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])


async def _greet(link: Link) -> None:
    group: Any = _Group()

    def came(parcel: object) -> None:
        assert isinstance(parcel, wires.Parcel) and parcel.pages is not None
        jax.block_until_ready(parcel.pages.chunks)
        link.send(Beat())

    inbox = Unpacking(
        lambda _: group,
        post=came,
        measured=lambda _: None,
        clock=asyncio.get_running_loop().time,
    )
    tasks.add(link.run(hear=inbox.take, on_cut=lambda: None))


tasks: set[asyncio.Task[None]] = set()


def _copy(server: socket.socket, *, size: int) -> None:
    """Takes `size` bytes, again and again, into memory that is there."""
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


async def _serve(size: int) -> None:
    server = await listen("127.0.0.1:0", config=CONFIG, greet=_greet)
    plain = socket.create_server(("127.0.0.1", 0))
    threading.Thread(
        target=_copy, args=(plain,), kwargs={"size": size}, daemon=True
    ).start()
    ports = server.sockets[0].getsockname()[1], plain.getsockname()[1]
    print(*ports, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))

"""A host's end of `test_transfers.py` in a process of its own: it takes pages in.

It writes where it listens, and then the numbers that pages of parcels are full of.
"""

import asyncio
import sys
import time
from functools import partial
from typing import Any

import jax
import numpy as np

from mell_jax.engine.hosts import wires
from mell_jax.hosts.link import LinkConfig
from mell_jax.hosts.listener import listen
from mell_jax.hosts.pages.buffers import Buffers
from mell_jax.hosts.pages.connection import take_in
from mell_jax.hosts.pages.landing import Landing
from mell_jax.hosts.pages.parcels import Unpacking
from mell_jax.hosts.pages.transfers import Transfers

SECRET = b"sixteen bytes..."
ANY = "127.0.0.1:0"


class Group:
    """Has one device; see `DeviceGroup`."""

    def __init__(self) -> None:
        self.pool_sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _tell(parcel: wires.Parcel) -> None:
    assert parcel.pages is not None
    values = {float(v) for c in parcel.pages.chunks for v in np.unique(np.asarray(c))}
    print(*values, flush=True)


async def _serve(*, can_pull: bool) -> None:
    group: Any = Group()
    landing = Landing(
        partial(take_in, secret=SECRET, tls=None),
        unpacking=Unpacking(
            lambda _: group,
            buffers=Buffers(most_bytes=2**24),
            transfers=Transfers(ANY) if can_pull else None,
        ),
        is_linked=lambda _: True,
        post=_tell,
        measured=lambda _: None,
        clock=time.monotonic,
    )

    async def greet(_: object) -> None:
        raise AssertionError("nobody connects but for pages")

    listener = await listen(
        ANY,
        config=LinkConfig(secret=SECRET),
        greet=greet,
        greet_pages=landing.take_in,
    )
    print(listener.address[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    listener.close()


if __name__ == "__main__":
    asyncio.run(_serve(can_pull=sys.argv[1] == "pulls"))

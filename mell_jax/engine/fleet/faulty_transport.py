"""A transport that loses or spoils a transfer of pages, as a planted fault says."""

from dataclasses import replace

import jax
import numpy as np

from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.fleet.transport import Transport
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.group import DeviceGroup


class FaultyTransport:
    """Another transport carries the pages, with the faults of `fault` in them."""

    def __init__(self, transport: Transport, *, fault: Fault) -> None:
        self._transport = transport
        self._fault = fault
        self._count = 0

    def carry(
        self,
        transfer: PageTransfer,
        *,
        source: DeviceGroupId,
        target: DeviceGroupId,
        to: DeviceGroup,
    ) -> PageTransfer:
        self._count += 1
        copy = self._transport.carry(transfer, source=source, target=target, to=to)
        if self._count == self._fault.flip:
            copy = replace(copy, chunks=(_flip(copy.chunks[0]), *copy.chunks[1:]))
        return replace(copy, is_lost=self._count == self._fault.hang)


def _flip(chunk: jax.Array) -> jax.Array:
    """Returns the chunk with the lowest bit of its first byte changed."""
    data = np.array(chunk)
    data.view(np.uint8).reshape(-1)[0] ^= 1
    flipped: jax.Array = jax.device_put(data, chunk.sharding)
    return flipped

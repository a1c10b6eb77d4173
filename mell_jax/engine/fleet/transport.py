"""A transport brings pages from one device group to another.

`DevicePut` leaves it to jax, peer to peer where the hardware can. `Checked` looks at
the first copy between two groups: on hosts whose peer-to-peer copies are broken they
come out as zeros without an error. Such a pair goes by way of the host from then on.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import jax
import numpy as np
from absl import logging

from mell_jax.engine.fleet.page_transfer import PageTransfer, checksums
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.group import DeviceGroup


class Transport(Protocol):
    """A transport carries transfers and returns before they have arrived."""

    def carry(
        self,
        transfer: PageTransfer,
        *,
        source: DeviceGroupId,
        target: DeviceGroupId,
        to: DeviceGroup,
    ) -> PageTransfer: ...


class DevicePut:
    """This transport is `jax.device_put`, from any layout to any other."""

    def carry(
        self,
        transfer: PageTransfer,
        *,
        source: DeviceGroupId,
        target: DeviceGroupId,
        to: DeviceGroup,
    ) -> PageTransfer:
        return _put(transfer.chunks, transfer=transfer, to=to)


class Checked:
    """This compares the first copy of another transport between each two groups."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._is_good: dict[tuple[DeviceGroupId, DeviceGroupId], bool] = {}

    def carry(
        self,
        transfer: PageTransfer,
        *,
        source: DeviceGroupId,
        target: DeviceGroupId,
        to: DeviceGroup,
    ) -> PageTransfer:
        pair = (source, target)
        if not self._is_good.get(pair, True):
            return by_host(transfer, to=to)
        copy = self._transport.carry(transfer, source=source, target=target, to=to)
        if pair not in self._is_good and transfer.chunks:
            self._is_good[pair] = checksums(transfer) == checksums(copy)
            if not self._is_good[pair]:
                _warn(pair)
                return by_host(transfer, to=to)
        return copy


def by_host(transfer: PageTransfer, *, to: DeviceGroup) -> PageTransfer:
    """Fetches a transfer and sends it on; waits for the first half."""
    fetched = [np.asarray(chunk) for chunk in transfer.chunks]
    return _put(fetched, transfer=transfer, to=to)


def _put(
    chunks: Sequence[jax.Array | np.ndarray], *, transfer: PageTransfer, to: DeviceGroup
) -> PageTransfer:
    sharding = to.pool_sharding
    put = tuple(jax.device_put(chunk, sharding) for chunk in chunks)
    return replace(transfer, chunks=put)


def _warn(pair: tuple[DeviceGroupId, DeviceGroupId]) -> None:
    logging.error(
        "device %d to %d: a copied page has other bits at its destination; pages "
        "between them go by way of the host from now on. Peer-to-peer copies are "
        "known to fail so where the IOMMU or PCIe ACS is on",
        *pair,
    )

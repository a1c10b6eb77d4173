"""How pages get from one device group to another, behind one interface.

`DevicePut` leaves it to jax, peer to peer where the hardware can. The first copy
between two groups is checked: on hosts whose peer-to-peer copies are broken they come
out as zeros without an error. Such a pair goes by way of the host from then on.
"""

from dataclasses import replace
from typing import Protocol

import jax
import numpy as np
from absl import logging

from mell_jax.engine.fleet.parcels import Parcel, checksums
from mell_jax.scheduler.ids import DeviceId
from mell_jax.worker.group import DeviceGroup


class Transport(Protocol):
    """Moves parcels; returns before they have arrived."""

    def carry(
        self, parcel: Parcel, *, source: DeviceId, target: DeviceId, to: DeviceGroup
    ) -> Parcel: ...


class DevicePut:
    """`jax.device_put`, from any layout to any other."""

    def __init__(self) -> None:
        self._is_good: dict[tuple[DeviceId, DeviceId], bool] = {}

    def carry(
        self, parcel: Parcel, *, source: DeviceId, target: DeviceId, to: DeviceGroup
    ) -> Parcel:
        pair = (source, target)
        if pair not in self._is_good and parcel.chunks:
            self._is_good[pair] = self._check(parcel, pair, to=to)
        if not self._is_good.get(pair, True):
            return by_host(parcel, to=to)
        return _put(parcel, to=to)

    def _check(
        self, parcel: Parcel, pair: tuple[DeviceId, DeviceId], *, to: DeviceGroup
    ) -> bool:
        if checksums(parcel) == checksums(_put(parcel, to=to)):
            return True
        logging.error(
            "device %d to %d: a copied page has other bits at its destination; pages "
            "between them go by way of the host from now on. Peer-to-peer copies are "
            "known to fail so where the IOMMU or PCIe ACS is on",
            *pair,
        )
        return False


def by_host(parcel: Parcel, *, to: DeviceGroup) -> Parcel:
    """Fetches a parcel and sends it on; waits for the first half."""
    chunks = [np.asarray(chunk) for chunk in parcel.chunks]
    sharding = to.pool_sharding
    return replace(parcel, chunks=tuple(jax.device_put(c, sharding) for c in chunks))


def _put(parcel: Parcel, *, to: DeviceGroup) -> Parcel:
    sharding = to.pool_sharding
    chunks = tuple(jax.device_put(chunk, sharding) for chunk in parcel.chunks)
    return replace(parcel, chunks=chunks)

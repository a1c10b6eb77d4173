"""Pages are moved by a collective, `ppermute` over the devices of two instances.

    [pages of the source | room of the target]   one array over both, [2n, 2L, KS, H]
                   '-------------^

Each two groups of equal layout without a common device have a mesh of their own,
(instance, tp, copy): a collective of all instances would have them all wait for each
other. Every length is compiled for every pair here; what is not goes by `DevicePut`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mell_jax.engine.fleet.page_transfer import CHUNK_PAGES, PageTransfer
from mell_jax.engine.fleet.transport import DevicePut
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.group import DeviceGroup

AXES = ("instance", "tp", "copy")
PAGES = PartitionSpec("instance", None, "tp")  # [2n, 2L, KS, H]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    """A lane is one compiled way between two groups."""

    sharding: NamedSharding
    runs: Mapping[int, jax.stages.Compiled]  # by pages of a chunk

    def carry(self, chunk: jax.Array, *, room: jax.Array, to: DeviceGroup) -> jax.Array:
        """Returns a chunk [n, 2L, KS, H] on the target; `room` stays as it is."""
        ends = (*chunk.addressable_shards, *room.addressable_shards)
        both = jax.make_array_from_single_device_arrays(
            (2 * chunk.shape[0], *chunk.shape[1:]),
            self.sharding,
            [shard.data for shard in ends],
        )
        moved = self.runs[chunk.shape[0]](both)
        arrived = {shard.device: shard.data for shard in moved.addressable_shards}
        return jax.make_array_from_single_device_arrays(
            chunk.shape, to.pool_sharding, [arrived[device] for device in to.devices]
        )


class Permute:
    """This transport permutes pages between the groups of a fleet.

    Args:
      groups: of the instances.
      page: shape [2L, KS, H] and dtype of a page.
    """

    def __init__(
        self, groups: Mapping[DeviceGroupId, DeviceGroup], *, page: jax.ShapeDtypeStruct
    ) -> None:
        self._other = DevicePut()
        self._lanes = {
            (a, b): _compile(source, target, page=page)
            for a, source in groups.items()
            for b, target in groups.items()
            if _is_possible(source, target)
        }
        targets = {target for _, target in self._lanes}
        self._rooms = {
            (device, length): _zeros(groups[device], length=length, page=page)
            for device in targets
            for length in CHUNK_PAGES
        }

    @property
    def pairs(self) -> frozenset[tuple[DeviceGroupId, DeviceGroupId]]:
        """Returns source and target of each way that is a collective."""
        return frozenset(self._lanes)

    def carry(
        self,
        transfer: PageTransfer,
        *,
        source: DeviceGroupId,
        target: DeviceGroupId,
        to: DeviceGroup,
    ) -> PageTransfer:
        lane = self._lanes.get((source, target))
        if lane is None:
            return self._other.carry(transfer, source=source, target=target, to=to)
        chunks = tuple(
            lane.carry(chunk, room=self._rooms[target, chunk.shape[0]], to=to)
            for chunk in transfer.chunks
        )
        return replace(transfer, chunks=chunks)


def _is_possible(source: DeviceGroup, target: DeviceGroup) -> bool:
    is_alike = (source.size, source.copies) == (target.size, target.copies)
    return is_alike and set(source.devices).isdisjoint(target.devices)


def _compile(
    source: DeviceGroup, target: DeviceGroup, *, page: jax.ShapeDtypeStruct
) -> _Lane:
    grid = np.array([source.devices, target.devices])
    grid = grid.reshape(2, source.kv_shards, source.copies)
    mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    sharding = NamedSharding(mesh, PAGES)
    send = jax.jit(jax.shard_map(_send, mesh=mesh, in_specs=PAGES, out_specs=PAGES))
    runs = {}
    for length in CHUNK_PAGES:
        both = jax.ShapeDtypeStruct(
            (2 * length, *page.shape), page.dtype, sharding=sharding
        )
        runs[length] = send.lower(both).compile()
    return _Lane(sharding=sharding, runs=runs)


def _send(pages: jax.Array) -> jax.Array:
    """Sends each device's part of [n, 2L, KS, H] from the source to the target."""
    sent: jax.Array = jax.lax.ppermute(pages, "instance", perm=[(0, 1)])
    return sent


def _zeros(group: DeviceGroup, *, length: int, page: jax.ShapeDtypeStruct) -> jax.Array:
    shape = (length, *page.shape)
    zeros: jax.Array = jax.device_put(jnp.zeros(shape, page.dtype), group.pool_sharding)
    return zeros

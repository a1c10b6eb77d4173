"""The pool opens instances and parks them: memory comes and goes, steps stay.

    parked     compiled steps, row state; weights stay, or wait in host memory
    open       weights on the devices and a pool of zeros

Everything was compiled when the fleet was built, so opening only allocates and copies,
and returns before that is done. Several models share the device groups; on each, one of
them is open at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mell_jax.engine.fleet.config import Parking
from mell_jax.engine.guides import GuideShop, InstanceGuides
from mell_jax.engine.instance import Instance
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.held_weights import HeldWeights


class InstancePool(Protocol):
    """A pool makes instances ready to run that were compiled long before."""

    @property
    def devices(self) -> Mapping[DeviceGroupId, DeviceGroup]: ...

    def open(self, device: DeviceGroupId, model: ModelId) -> Instance: ...

    def close(self, device: DeviceGroupId) -> None: ...

    def held(self, model: ModelId) -> Mapping[DeviceGroupId, HeldWeights]:
        """Returns the weights of a model on every group, parked or open.

        Those of groups with the same devices may be the same.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedInstance:
    """This is what a device group keeps of a model that is parked there."""

    worker: DeviceWorker
    make_batcher: Callable[[], Batcher]
    max_rows: int
    shares_prefixes: bool
    shop: GuideShop | None = None  # None: no request may have a grammar


class DeviceInstancePool:
    """This pool has the device groups of a fleet.

    Args:
      parked: of every model on every device group, warmed up and parked.
      parking: what a parked instance gives back.
    """

    def __init__(
        self,
        parked: Mapping[tuple[DeviceGroupId, ModelId], ParkedInstance],
        *,
        parking: Parking,
    ) -> None:
        self._parked = parked
        self._groups = {device: b.worker.group for (device, _), b in parked.items()}
        self._parking = parking
        self._open: dict[DeviceGroupId, ParkedInstance] = {}

    @property
    def devices(self) -> Mapping[DeviceGroupId, DeviceGroup]:
        return self._groups

    @property
    def workers(self) -> Mapping[tuple[DeviceGroupId, ModelId], DeviceWorker]:
        """Returns the workers of every model and group; parked ones have no pool."""
        return {key: parked.worker for key, parked in self._parked.items()}

    @property
    def open_devices(self) -> tuple[DeviceGroupId, ...]:
        """Returns the groups on which an instance is open."""
        return tuple(self._open)

    def held(self, model: ModelId) -> Mapping[DeviceGroupId, HeldWeights]:
        return {
            device: parked.worker.held
            for (device, name), parked in self._parked.items()
            if name == model
        }

    def open(self, device: DeviceGroupId, model: ModelId) -> Instance:
        """Opens an empty instance on a group without one; see `worker.is_ready`."""
        assert device not in self._open, f"device {device} is open already"
        parked = self._open[device] = self._parked[device, model]
        parked.worker.unpark()
        return Instance(
            parked.worker,
            parked.make_batcher(),
            max_rows=parked.max_rows,
            guides=InstanceGuides(parked.shop, vocab_size=parked.worker.vocab_size),
        )

    def close(self, device: DeviceGroupId) -> None:
        self._open.pop(device).worker.park(keeps_weights=self._parking == "pool")

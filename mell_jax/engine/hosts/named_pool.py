"""A host's device groups under the names that the fleet gave them."""

from collections.abc import Mapping, Sequence
from typing import final

from mell_jax.engine.fleet.instance_pool import InstancePool
from mell_jax.engine.instance import Instance
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.held_weights import HeldWeights


@final
class NamedPool:
    """The pool of a host; see `InstancePool`.

    Args:
      pool: knows the groups by numbers from 0 on.
    """

    def __init__(self, pool: InstancePool) -> None:
        self._pool = pool
        self._lost: set[DeviceGroupId] = set()  # numbers
        self._numbers: dict[DeviceGroupId, DeviceGroupId] = {}  # by name

    @property
    def num_groups(self) -> int:
        """Returns how many groups there are that have not failed."""
        return len(self._pool.devices) - len(self._lost)

    def name(self, names: Sequence[DeviceGroupId]) -> None:
        """Names the groups that have not failed, anew."""
        left = [number for number in self._pool.devices if number not in self._lost]
        self._numbers = dict(zip(names, left, strict=False))

    def lose(self, device: DeviceGroupId) -> None:
        """A group has failed and is not used again."""
        self._lost.add(self._numbers[device])

    @property
    def devices(self) -> Mapping[DeviceGroupId, DeviceGroup]:
        groups = self._pool.devices
        return {name: groups[number] for name, number in self._numbers.items()}

    def open(self, device: DeviceGroupId, model: ModelId) -> Instance:
        return self._pool.open(self._numbers[device], model)

    def close(self, device: DeviceGroupId) -> None:
        self._pool.close(self._numbers[device])

    def held(self, model: ModelId) -> Mapping[DeviceGroupId, HeldWeights]:
        held = self._pool.held(model)
        return {name: held[number] for name, number in self._numbers.items()}

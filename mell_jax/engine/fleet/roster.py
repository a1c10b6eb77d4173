"""The roster knows which device groups serve, are being made ready, have failed.

parked --open--> opening --ready--> serving --close--> parked
                    '--------fence-----'-----> lost, for good
"""

from collections.abc import Callable, Iterator, Mapping
from typing import final

from mell_jax.engine.fleet.fleet_instance import FleetContext, FleetInstance
from mell_jax.engine.fleet.instance_pool import InstancePool
from mell_jax.engine.fleet.transport import Transport
from mell_jax.scheduler.ids import CopyId, DeviceGroupId, ModelId
from mell_jax.scheduler.migration.endpoint import Endpoint
from mell_jax.scheduler.migration.source import StagingLimits
from mell_jax.worker.group import DeviceGroup

OPENING_LIMIT_S = 120.0
"""Of what is making an instance ready; one that takes longer is taken for stuck."""


@final
class Roster:
    """The roster opens, parks and fences the instances of a fleet.

    Args:
      instance_pool: makes instances ready.
      transports: of the pages of each model.
      clock: seconds.
      piece_pages: see `StagingLimits`.
    """

    def __init__(
        self,
        instance_pool: InstancePool,
        *,
        transports: Mapping[ModelId, Transport],
        clock: Callable[[], float],
        page_tokens: int,
        piece_pages: int | None = None,
    ) -> None:
        self.instances: dict[DeviceGroupId, FleetInstance] = {}  # serving or opening
        self.lost: set[DeviceGroupId] = set()
        self._instance_pool = instance_pool
        self._transports = transports
        self._clock = clock
        self._page_tokens = page_tokens
        self._piece_pages = piece_pages
        self._since_s: dict[DeviceGroupId, float] = {}  # of those that are opening

    @property
    def groups(self) -> Mapping[DeviceGroupId, DeviceGroup]:
        """Returns the groups of all devices, whatever they do."""
        return self._instance_pool.devices

    @property
    def is_opening(self) -> bool:
        """Returns whether an instance is being made ready."""
        return bool(self._since_s)

    def may_open(self, now_s: float) -> bool:
        """Returns whether an instance is being made ready that may take its time."""
        return any(
            now_s - since_s < OPENING_LIMIT_S for since_s in self._since_s.values()
        )

    def open(
        self,
        device: DeviceGroupId,
        model: ModelId,
        *,
        horizon: CopyId,
        context: FleetContext,
    ) -> None:
        """Begins to make an instance ready.

        Args:
          horizon: copies before it are of the device's earlier instances.

        Raises:
          RuntimeError: the device cannot, for example for want of memory.
        """
        start_s = self._clock()
        instance = self._instance_pool.open(device, model)
        self._since_s[device] = start_s
        self.instances[device] = FleetInstance(
            device,
            instance,
            model=model,
            endpoint=Endpoint(
                device,
                limits=StagingLimits(
                    page_tokens=self._page_tokens, piece_pages=self._piece_pages
                ),
                horizon=horizon,
            ),
            transport=self._transports[model],
            context=context,
        )

    def opened(self) -> Iterator[tuple[FleetInstance, float]]:
        """Yields those that became ready since the last call, and their seconds."""
        for device, since_s in list(self._since_s.items()):
            instance = self.instances[device]
            if instance.is_open:
                del self._since_s[device]
                yield instance, self._clock() - since_s

    def close(self, device: DeviceGroupId) -> FleetInstance:
        """Parks an instance."""
        self._since_s.pop(device, None)
        instance = self.instances.pop(device)
        self._instance_pool.close(device)
        return instance

    def fence(self, device: DeviceGroupId) -> FleetInstance | None:
        """Never uses a device again; returns the instance that it had, if any."""
        self._since_s.pop(device, None)
        self.lost.add(device)
        return self.instances.pop(device, None)

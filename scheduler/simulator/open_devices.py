"""The devices in use: which model each serves, when it is ready, what all of them cost.

They are counted here as they are opened, parked and lost, for the meter's figures.
"""

from collections.abc import Mapping

from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.simulator.measure import RunMeter
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.warm import WarmPool


class OpenDevices:
    """The devices in use of one run."""

    def __init__(self, settings: Settings, *, meter: RunMeter) -> None:
        self._settings = settings
        self._meter = meter
        self._kinds = settings.fleet()
        self._specs = settings.kinds()
        self._serving: dict[DeviceGroupId, ModelId] = {}
        self._ready_s: dict[DeviceGroupId, float] = {}
        self._warm = WarmPool(
            size=settings.warm_devices,
            warm_s=settings.warm_s,
            idle=settings.max_devices,
        )

    def __len__(self) -> int:
        return len(self._serving)

    def __contains__(self, device: DeviceGroupId) -> bool:
        return device in self._serving

    @property
    def ready_s(self) -> Mapping[DeviceGroupId, float]:
        """Returns when each device has loaded its model, also those of before."""
        return self._ready_s

    @property
    def capacity_pages(self) -> int:
        """Returns the pages that all of them hold."""
        return sum(map(self.capacity_pages_of, self._serving))

    def capacity_pages_of(self, device: DeviceGroupId) -> int:
        """Returns the pages that one of them holds."""
        models = self._specs[self._kinds[device].kind].models
        return models[self._serving[device]].capacity_pages

    def open(self, decision: plan.Activate, *, now_s: float) -> float:
        """Loads a model; returns the seconds that it takes.

        What is kept warm takes another time than the books say.
        """
        self._meter.activations += 1
        self._serving[decision.device] = decision.model
        load_s = decision.load_s
        if self._settings.warm_devices:
            load_s = self._warm.open(
                now_s=now_s,
                cold_s=self._settings.loading_s(decision.model),
                idle=self._settings.max_devices - len(self._serving),
            )
        self._ready_s[decision.device] = now_s + load_s
        self._change(decision.device, now_s=now_s, by=1)
        return load_s

    def park(self, device: DeviceGroupId, *, now_s: float) -> None:
        """Takes a device out of use."""
        self._warm.park(now_s=now_s)
        self.lose(device, now_s=now_s)

    def lose(self, device: DeviceGroupId, *, now_s: float) -> None:
        """A device is no longer there."""
        del self._serving[device]
        self._change(device, now_s=now_s, by=-1)

    def end(self, now_s: float) -> None:
        """The run is over."""
        self._meter.count_devices(now_s, len(self), warm_devices=len(self._warm))
        if self._meter.money is not None:
            self._meter.money.end(now_s)

    def _change(self, device: DeviceGroupId, *, now_s: float, by: int) -> None:
        self._meter.count_devices(now_s, len(self), warm_devices=len(self._warm))
        if self._meter.money is not None:
            self._meter.money.change(self._kinds[device].kind, now_s=now_s, by=by)

"""Instances made ready and put away again: pools come and go, compiled steps stay.

    parked     compiled steps, row state; weights stay, or wait in host memory
    open       weights on the devices and a pool of zeros

Everything was compiled when the fleet was built, so opening only allocates and copies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mell_jax.engine.fleet.config import Parking
from mell_jax.engine.instance import Instance
from mell_jax.scheduler.ids import DeviceId, ModelId
from mell_jax.scheduler.movable import MovableBatcher
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import DeviceGroup


class Workshop(Protocol):
    """Makes instances ready to run, compiled long before."""

    @property
    def devices(self) -> Mapping[DeviceId, DeviceGroup]: ...

    def open(self, device: DeviceId, model: ModelId) -> Instance: ...

    def close(self, device: DeviceId) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What one device group keeps while it is parked."""

    worker: DeviceWorker
    make_batcher: Callable[[], MovableBatcher]
    max_rows: int


class DeviceWorkshop:
    """The device groups of a fleet, all parked at first.

    Args:
      benches: by device group, warmed up.
      parking: what a parked instance gives back.
      clock: seconds; measures how long opening takes.
    """

    def __init__(
        self,
        benches: Mapping[DeviceId, Bench],
        *,
        parking: Parking,
        clock: Callable[[], float],
    ) -> None:
        self._benches = benches
        self._groups = {device: bench.worker.group for device, bench in benches.items()}
        self._parking = parking
        self._clock = clock
        self.opening_s = 0.0  # that the latest opening took
        for device, bench in benches.items():
            bench.worker.park(keeps_weights=True)
            bench.worker.unpark()  # compiled now, and never again
            self.close(device)

    @property
    def devices(self) -> Mapping[DeviceId, DeviceGroup]:
        return self._groups

    def open(self, device: DeviceId, model: ModelId) -> Instance:
        """An empty instance on a parked group; waits until it is there."""
        bench, start_s = self._benches[device], self._clock()
        bench.worker.unpark()
        self.opening_s = self._clock() - start_s
        return Instance(bench.worker, bench.make_batcher(), max_rows=bench.max_rows)

    def close(self, device: DeviceId) -> None:
        self._benches[device].worker.park(keeps_weights=self._parking == "pool")

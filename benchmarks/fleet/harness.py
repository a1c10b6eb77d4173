"""Builds instances once, and a new fleet on them as often as one is wanted.

Compiling is what takes long; a fleet is only its records. The parts that a fleet is
made of come from the one that `build_engine` makes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import final

import jax

from mell_jax.bench.shapes import model_directory
from mell_jax.engine.build import BuiltEngine, build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.arrivals import Arrivals
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.instance_pool import DeviceInstancePool
from mell_jax.engine.fleet.models import FleetModel
from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.fleet.profile import Profile
from mell_jax.engine.fleet.transport import DevicePut, Transport
from mell_jax.engine.frames import Abort, EngineInfo
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import Policy
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import DeviceGroup


@final
class Counting:
    """It counts how much a transport has carried."""

    def __init__(self, transport: Transport) -> None:
        self.transfers = 0
        self.bytes = 0
        self._transport = transport

    def carry(
        self,
        transfer: PageTransfer,
        *,
        source: DeviceGroupId,
        target: DeviceGroupId,
        to: DeviceGroup,
    ) -> PageTransfer:
        self.transfers += 1
        self.bytes += transfer.nbytes
        return self._transport.carry(transfer, source=source, target=target, to=to)


@final
class FleetHarness:
    """A harness has the instances of `built`, all parked, for fleets to come."""

    def __init__(self, built: BuiltEngine) -> None:
        fleet = built.engine
        instance_pool = fleet.instance_pool
        assert isinstance(instance_pool, DeviceInstancePool), "a fleet of another make"
        self.infos = fleet.infos
        self.models = tuple(ModelId(info.model_name) for info in fleet.infos)
        self.spec: ModelSpec = fleet.machine.ledger.spec(self.models[0])
        self.profile = fleet.profile
        self.transport = Counting(DevicePut())
        self.compilations = built.compilations
        self._instance_pool = instance_pool

    @property
    def info(self) -> EngineInfo:
        """Returns that of the default model, and but for its name of all."""
        return self.infos[0]

    @property
    def workers(self) -> Mapping[DeviceGroupId, DeviceWorker]:
        """Returns the workers of the default model; parked ones have no pool."""
        return {
            device: worker
            for (device, model), worker in self._instance_pool.workers.items()
            if model == self.models[0]
        }

    def open_fleet(
        self,
        policy: Policy,
        *,
        clock: Callable[[], float],
        config: FleetConfig,
        spec: ModelSpec | None = None,
        transport: Transport | None = None,
        profile: Profile | None = None,
        arrivals: Arrivals | None = None,
    ) -> Fleet:
        """Returns a fleet with nothing in it; close the one before first.

        Args:
          spec: what placement takes the instances for; None: as they are.
          transport: of pages; None for `DevicePut`.
          profile: what links and instances can do; None: whatever is asked of them.
          arrivals: see `Fleet`.
        """
        self.transport = Counting(transport or DevicePut())
        return Fleet(
            models=[
                FleetModel(info=info, transport=self.transport) for info in self.infos
            ],
            machine=Machine(
                models=dict.fromkeys(self.models, spec or self.spec), policy=policy
            ),
            instance_pool=self._instance_pool,
            profile=profile,
            clock=clock,
            config=config,
            arrivals=arrivals,
        )

    def close_fleet(self, fleet: Fleet) -> None:
        """Gives up everything in it and parks its instances."""
        fleet.abort(Abort(handles=tuple(fleet.conductor.requests)))
        while fleet.has_work:
            fleet.step()
        fleet.instances.clear()
        for device in self._instance_pool.open_devices:  # also those that it has lost
            self._instance_pool.close(device)


def build_harness(
    config: EngineConfig, *, progress: bool, names: Sequence[str] = ()
) -> FleetHarness:
    """Compiles the instances of `config`, whose model may be "random:SHAPE".

    Args:
      names: serve the model under each of these, as if they were different ones.

    Raises:
      ValueError: the model cannot be used, or not on these devices.
    """
    with model_directory(config.model) as directory:
        names = names or (config.served_model_name or config.model,)
        configs = [
            dataclasses.replace(config, model=str(directory), served_model_name=name)
            for name in names
        ]
        return FleetHarness(build_engine(*configs, progress=progress))


def choose_devices(instances: int) -> tuple[int, ...]:
    """Returns one device for each instance; all on the first one where there are too
    few.
    """
    if len(jax.devices()) >= instances:
        return tuple(range(instances))
    return (0,) * instances


def describe_devices(devices: Sequence[int]) -> str:
    """Says how many there are, and on what: 8 instances on 1 cpu."""
    kind = jax.devices()[0].platform
    return f"{len(devices)} instances on {len(set(devices))} {kind}"

"""From weights on the first group to a fleet on all of them, warmed up and parked."""

import math
import time
from collections.abc import Mapping, Sequence

import jax
from absl import logging

from mell_jax.engine.blueprint import Blueprint, make_movable_batcher, make_worker
from mell_jax.engine.fleet import parcels
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import NO_FAULT, FaultyTransport
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.permute import Permute
from mell_jax.engine.fleet.profile import measure
from mell_jax.engine.fleet.transport import Checked, DevicePut, Transport
from mell_jax.engine.fleet.workshop import Bench, DeviceWorkshop
from mell_jax.scheduler.ids import DeviceId, ModelId
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.pool import PAGE_TOKENS, page_bytes
from mell_jax.worker.step import Weights


def build_fleet(
    blueprint: Blueprint,
    *,
    groups: Sequence[DeviceGroup],
    weights: Sequence[Weights],
    config: FleetConfig,
    seed: int,
    progress: bool,
) -> Fleet:
    """Compiles everything on every group; `weights` lie on the groups, in order."""
    workers = [
        make_worker(blueprint, group=group, weights=own)
        for group, own in zip(groups, weights, strict=True)
    ]
    for worker in workers:
        worker.warm_up(progress=progress)
        parcels.warm_up(worker)
    by_device = {DeviceId(number): worker for number, worker in enumerate(workers)}
    transport = _transport(by_device, config=config)
    profile = measure(by_device, transport=transport)
    if config.fault != NO_FAULT:
        transport = FaultyTransport(transport, fault=config.fault)
    spec = _model_spec(blueprint, worker=workers[0])
    model = ModelId(blueprint.info.model_name)
    policy = POLICIES[config.policy](_policy_config(config))
    return Fleet(
        info=blueprint.info,
        model=model,
        machine=Machine(models={model: spec}, policy=policy),
        workshop=_workshop(blueprint, by_device, config=config),
        transport=Checked(transport),
        profile=profile,
        clock=time.monotonic,
        config=config,
        shares_prefixes=blueprint.shares_prefixes,
        seed=seed,
    )


def _transport(
    workers: Mapping[DeviceId, DeviceWorker], *, config: FleetConfig
) -> Transport:
    if config.transport == "device_put":
        return DevicePut()
    groups = {device: worker.group for device, worker in workers.items()}
    pool = next(iter(workers.values())).pool
    transport = Permute(groups, page=jax.ShapeDtypeStruct(pool.shape[1:], pool.dtype))
    possible, pairs = len(transport.pairs), len(groups) * (len(groups) - 1)
    if possible < pairs:
        logging.warning(
            "%d of %d pairs of instances differ in layout or share devices: pages "
            "between them go by device_put",
            pairs - possible,
            pairs,
        )
    return transport


def _workshop(
    blueprint: Blueprint,
    workers: Mapping[DeviceId, DeviceWorker],
    *,
    config: FleetConfig,
) -> DeviceWorkshop:
    benches = {
        device: Bench(
            worker=worker,
            make_batcher=lambda: make_movable_batcher(blueprint),
            max_rows=blueprint.settled.max_rows,
        )
        for device, worker in workers.items()
    }
    return DeviceWorkshop(benches, parking=config.parking, clock=time.monotonic)


def _model_spec(blueprint: Blueprint, *, worker: DeviceWorker) -> ModelSpec:
    """What an instance holds, and how fast its requests grow, as measured here."""
    step_s = worker.time_decode_step()
    return ModelSpec(
        capacity_pages=blueprint.num_pages - 1,
        max_rows=blueprint.settled.max_rows,
        growth_pages_per_s=1.0 / (step_s * PAGE_TOKENS),
        page_tokens=PAGE_TOKENS,
        page_bytes=page_bytes(
            blueprint.spec.config,
            dtype=blueprint.settled.dtype,
            platform=worker.group.devices[0].platform,
        ),
    )


def _policy_config(config: FleetConfig) -> PolicyConfig:
    gbps = config.migration_gbps
    return PolicyConfig(
        look_s=config.look_s,
        epoch_s=config.epoch_s,
        link_bytes_per_s=gbps * 1e9 / 8 if gbps is not None else math.inf,
    )

"""Makes a fleet from weights: every model is warmed up and parked on every group."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from absl import logging

from mell_jax.checkpoints import CheckpointSpec
from mell_jax.engine.blueprint import (
    Blueprint,
    make_batcher,
    make_blueprint,
    make_worker,
)
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet import page_transfer
from mell_jax.engine.fleet.arrivals import WatchedArrivals
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import NO_FAULT
from mell_jax.engine.fleet.faulty_transport import FaultyTransport
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.instance_pool import DeviceInstancePool, ParkedInstance
from mell_jax.engine.fleet.models import FleetModel
from mell_jax.engine.fleet.permute import Permute
from mell_jax.engine.fleet.profile import Profile, measure
from mell_jax.engine.fleet.step_fit import check_slo, measure_step_time
from mell_jax.engine.fleet.transport import Checked, DevicePut, Transport
from mell_jax.engine.guides import GuideShop
from mell_jax.engine.self_check import SelfCheck
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec, StepTime
from mell_jax.scheduler.policies import POLICIES
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.held_weights import HeldWeights
from mell_jax.worker.pool import PAGE_TOKENS, page_bytes
from mell_jax.worker.step import ModelParts, Weights
from mell_jax.worker.timing import time_decode

if TYPE_CHECKING:  # who measures steps alone has no msgpack
    from mell_jax.engine.kv_events.news import KvEvents

Workers = Mapping[DeviceGroupId, DeviceWorker]
LEAST_FORCED_ON_CPU = 8
"""A CPU computes a prompt's smallest step in the time of four decodes of one row."""
REPEATS = 3  # of what is timed; the best counts


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyModel:
    """This model's weights lie on every device group, in their order."""

    parts: ModelParts
    weights: Sequence[Weights]
    groups: Sequence[DeviceGroup]
    spec: CheckpointSpec
    config: EngineConfig
    name: str
    self_check: SelfCheck | None = None  # of a module that is not ours


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parked:
    """This model is warm on every group, its pools given back."""

    model: FleetModel
    profile: Profile
    spec: ModelSpec
    shop: GuideShop
    parked_instances: Mapping[DeviceGroupId, ParkedInstance]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetParts:
    """A fleet is made of these parts, or one host of a larger fleet."""

    models: tuple[FleetModel, ...]
    specs: Mapping[ModelId, ModelSpec]
    pool: DeviceInstancePool
    profile: Profile
    config: FleetConfig
    shares_prefixes: bool
    arrivals: WatchedArrivals
    shops: Mapping[ModelId, GuideShop]
    kv_events: "KvEvents | None"


def build_fleet(
    models: Iterable[ReadyModel], *, config: FleetConfig, seed: int, progress: bool
) -> Fleet:
    """Compiles every model on every group; see `build_parts`."""
    parts = build_parts(models, config=config, progress=progress)
    policy = POLICIES[config.policy](config.policy_config())
    return Fleet(
        models=parts.models,
        machine=Machine(models=parts.specs, policy=policy),
        instance_pool=parts.pool,
        profile=parts.profile,
        clock=time.monotonic,
        config=config,
        shares_prefixes=parts.shares_prefixes,
        seed=seed,
        arrivals=parts.arrivals,
        shops=parts.shops,
        kv_events=parts.kv_events,
    )


def build_parts(
    models: Iterable[ReadyModel], *, config: FleetConfig, progress: bool
) -> FleetParts:
    """Compiles every model on every group.

    A model is asked for once those before it are parked: when they park their weights
    too, each model's pools get the memory that its own weights leave.
    """
    if config.parking == "pool":
        models = list(models)  # the pools of each get what all weights leave
    arrivals = WatchedArrivals()
    parked = [
        _park_everywhere(
            model,
            config,
            shop=GuideShop(ring=arrivals.ring, least_forced=_least_forced(model)),
            progress=progress,
        )
        for model in models
    ]
    parked_instances = {
        (device, one.model.id): instance
        for one in parked
        for device, instance in one.parked_instances.items()
    }
    return FleetParts(
        models=tuple(one.model for one in parked),
        specs={one.model.id: one.spec for one in parked},
        pool=DeviceInstancePool(parked_instances, parking=config.parking),
        profile=Profile.joined([one.profile for one in parked]),
        config=config,
        shares_prefixes=all(b.shares_prefixes for b in parked_instances.values()),
        arrivals=arrivals,
        shops={one.model.id: one.shop for one in parked},
        kv_events=_kv_events(config),
    )


def _kv_events(config: FleetConfig) -> "KvEvents | None":
    """Returns what tells others of cached prefixes, if somebody wants to know."""
    if not config.kv_events:
        return None
    from mell_jax.engine.kv_events.news import KvEvents  # noqa: PLC0415
    from mell_jax.engine.kv_events.zmq_publisher import ZmqPublisher  # noqa: PLC0415

    return KvEvents(
        ZmqPublisher(
            config.kv_events,
            replay=config.kv_events_replay,
            topic=config.kv_events_topic,
        ),
        clock=time.time,
    )


def _park_everywhere(
    model: ReadyModel, config: FleetConfig, *, shop: GuideShop, progress: bool
) -> _Parked:
    blueprint = make_blueprint(
        model.parts,
        spec=model.spec,
        config=model.config,
        name=model.name,
        groups=model.groups,
    )
    workers: Workers = {
        DeviceGroupId(number): make_worker(blueprint, group=group, weights=held)
        for number, (group, held) in enumerate(
            zip(model.groups, _held(model), strict=True)
        )
    }
    for worker in workers.values():
        worker.warm_up(progress=progress)
    if model.self_check is not None:
        model.self_check.check(workers[DeviceGroupId(0)])
    transport, profile = _links(workers, model=ModelId(model.name), config=config)
    if config.fault != NO_FAULT:
        transport = FaultyTransport(transport, fault=config.fault)
    spec = _model_spec(
        blueprint,
        decode_s=time_decode(workers[DeviceGroupId(0)], repeats=REPEATS).took_s,
        step_time=_step_time(blueprint, workers, slo_ms=config.tpot_slo_ms),
        slo_ms=config.tpot_slo_ms,
        load_s=_park(workers, config=config),
    )
    return _Parked(
        shop=shop,
        model=FleetModel(info=blueprint.info, transport=Checked(transport)),
        profile=profile,
        spec=spec,
        parked_instances={
            device: ParkedInstance(
                worker=worker,
                make_batcher=lambda: make_batcher(
                    blueprint, has_news=bool(config.kv_events)
                ),
                max_rows=blueprint.settled.max_rows,
                shares_prefixes=blueprint.shares_prefixes,
                shop=shop,
            )
            for device, worker in workers.items()
        },
    )


def _held(model: ReadyModel) -> list[HeldWeights]:
    """Returns the weights of each group; those of the same devices share them."""
    found: dict[tuple[jax.Device, ...], HeldWeights] = {}
    return [
        found.setdefault(group.devices, HeldWeights(weights))
        for group, weights in zip(model.groups, model.weights, strict=True)
    ]


def _least_forced(model: ReadyModel) -> int:
    """Returns how many forced tokens are worth a step with a prompt's shape."""
    is_cpu = model.groups[0].devices[0].platform == "cpu"
    return LEAST_FORCED_ON_CPU if is_cpu else 1


def _links(
    workers: Workers, *, model: ModelId, config: FleetConfig
) -> tuple[Transport, Profile]:
    """Compiles and measures what moves take; nothing where there is one group."""
    if len(workers) == 1 and not config.has_others:
        return DevicePut(), Profile.of_one(next(iter(workers)), model=model)
    for worker in workers.values():
        page_transfer.warm_up(worker)
    transport = _transport(workers, config=config)
    return transport, measure(workers, model=model, transport=transport)


def _park(workers: Workers, *, config: FleetConfig) -> float:
    """Parks all; returns the seconds that the slowest took to open again."""
    keeps_weights = config.parking == "pool"
    slowest_s = 0.0
    for worker in workers.values():
        for _ in range(2):  # the first time compiles, and never again
            worker.park(keeps_weights=keeps_weights)
            start_s = time.perf_counter()
            worker.unpark()
            worker.wait_ready()
            took_s = time.perf_counter() - start_s
        slowest_s = max(slowest_s, took_s)
        worker.park(keeps_weights=keeps_weights)
    return slowest_s


def _step_time(
    blueprint: Blueprint, workers: Workers, *, slo_ms: float | None
) -> StepTime:
    """Fits what a decode step takes, where placement is to know.

    Raises:
      ValueError: a request alone takes longer than `slo_ms`.
    """
    if slo_ms is None:
        return StepTime()
    settled, info = blueprint.settled, blueprint.info
    step_time = measure_step_time(
        list(workers.values()),
        cache=settled.cache,
        capacity_pages=blueprint.num_pages - 1,
        max_pages=settled.max_pages,
        name=info.model_name,
    )
    longest = settled.cache.held(settled.max_pages)
    check_slo(slo_ms, step_time=step_time, pages=longest, info=info)
    return step_time


def _transport(workers: Workers, *, config: FleetConfig) -> Transport:
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


def _model_spec(
    blueprint: Blueprint,
    *,
    decode_s: float,
    step_time: StepTime,
    slo_ms: float | None,
    load_s: float,
) -> ModelSpec:
    """Returns what an instance holds, how fast its requests grow and how long it
    takes to open, as measured here."""
    groups = blueprint.settled.cache.groups
    growing = sum(group.ring is None for group in groups)  # others fill up
    return ModelSpec(
        capacity_pages=blueprint.num_pages - 1,
        max_rows=blueprint.settled.max_rows,
        growth_pages_per_s=growing / (decode_s * PAGE_TOKENS),
        step_time=step_time,
        step_budget_s=math.inf if slo_ms is None else 1e-3 * slo_ms,
        load_s=load_s,
        page_tokens=PAGE_TOKENS,
        cache=blueprint.settled.cache,
        page_bytes=page_bytes(
            blueprint.spec.config,
            dtype=blueprint.settled.kv_dtype,
            platform=blueprint.platform,
        ),
    )

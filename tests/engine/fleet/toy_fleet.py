"""Fleets of toy instances, by default all on one CPU device, which compiles once."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp

from mell_jax.engine.fleet.arrivals import Result
from mell_jax.engine.fleet.config import FleetConfig, Parking
from mell_jax.engine.fleet.faults import NEVER
from mell_jax.engine.fleet.faulty_transport import FaultyTransport
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.models import FleetModel
from mell_jax.engine.fleet.permute import Permute
from mell_jax.engine.fleet.profile import Profile
from mell_jax.engine.fleet.transport import Checked, DevicePut, Transport
from mell_jax.engine.guides import GuideShop, InstanceGuides
from mell_jax.engine.instance import Instance
from mell_jax.engine.kv_events.news import KvEvents
from mell_jax.models.config import ModelConfig
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.plan import BatchLimits
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.prefix_cache import PrefixCache
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.held_weights import HeldWeights
from tests.toy import (
    CONFIG,
    PAGE_TOKENS,
    TOY_END,
    VOCAB,
    toy_info,
    toy_table,
    toy_weights,
    toy_worker,
)

TOY = ModelId("toy")
ONE_TOY = MappingProxyType({TOY: 1})
MAX_TOKENS = 128


class ToyPool:
    """Device groups, by default all the same; each opening builds an instance anew."""

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        *,
        model: ModelConfig,
        num_pages: int,
        prefix_cache: bool,
        factors: Mapping[ModelId, int],
        max_tokens: int,
        lands_for_owed: bool,
        parking: Parking = "pool",
        shop: GuideShop | None = None,
        make_instance: Callable[..., Instance] = Instance,
        has_news: bool = False,
    ) -> None:
        self._has_news = has_news
        found = jax.devices()
        self._groups = {
            DeviceGroupId(n): DeviceGroup.of_model(
                model, devices=[found[i] for i in ids]
            )
            for n, ids in enumerate(groups)
        }
        self._model = model
        self._num_pages = num_pages
        self._prefix_cache = prefix_cache
        self._factors = factors
        self._max_tokens = max_tokens
        self._lands_for_owed = lands_for_owed
        self._parking = parking
        self._shop = shop
        self._make_instance = make_instance
        self.opened = 0
        self._held: dict[ModelId, dict[DeviceGroupId, HeldWeights]] = {
            name: {
                device: toy_weights(model, factor=factor, group=group)
                for device, group in self._groups.items()
            }
            for name, factor in factors.items()
        }
        self._workers: dict[DeviceGroupId, DeviceWorker] = {}

    @property
    def devices(self) -> Mapping[DeviceGroupId, DeviceGroup]:
        return self._groups

    def open(self, device: DeviceGroupId, model: ModelId) -> Instance:
        self.opened += 1
        batcher = Batcher(
            PrefixCache(PagePool(self._num_pages), news=[] if self._has_news else None),
            limits=BatchLimits(
                max_rows=8,
                token_budget=64,
                max_tokens=self._max_tokens,
                mixed_tokens=(8, 64) if self._lands_for_owed else (),
                lands_for_owed=self._lands_for_owed,
            ),
            spec=CacheSpec(page_tokens=PAGE_TOKENS),
            shares_prefixes=self._prefix_cache,
        )
        worker = self._workers[device] = self.worker(device, model)
        return self._make_instance(
            worker,
            batcher,
            max_rows=8,
            guides=InstanceGuides(self._shop, vocab_size=VOCAB),
        )

    def worker(self, device: DeviceGroupId, model: ModelId) -> DeviceWorker:
        return toy_worker(
            self._model,
            factor=self._factors[model],
            num_pages=65,
            max_rows=8,
            token_budget=64,
            max_tokens=self._max_tokens,
            devices=self._groups[device].devices,
            held=self._held[model][device],
        )

    def close(self, device: DeviceGroupId) -> None:
        self._workers.pop(device).park(keeps_weights=self._parking == "pool")

    def held(self, model: ModelId) -> Mapping[DeviceGroupId, HeldWeights]:
        return self._held[model]


def toy_page(model: ModelConfig = CONFIG) -> jax.ShapeDtypeStruct:
    """[2L, KS, H] of a page."""
    shape = (2, model.num_kv_heads * PAGE_TOKENS, model.head_dim)
    return jax.ShapeDtypeStruct(shape, jnp.float32)


PAGE_BYTES = 2 * PAGE_TOKENS * 32 * 4


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.25
        return self.now_s


class ToyArrivals:
    """Waits for all devices but those that hang, so that toys step in turn."""

    def wait(self, results: Mapping[DeviceGroupId, Result], *, most_s: float) -> None:
        for result in results.values():
            if result is not NEVER:
                result.wait()
        if not results:
            time.sleep(min(most_s, 0.001))

    def ring(self) -> None: ...

    def end(self, *, most_s: float) -> None: ...


def toy_fleet(
    *,
    devices: int = 3,
    num_pages: int = 65,
    policy: str = "consolidate",
    config: FleetConfig | None = None,
    prefix_cache: bool = True,
    rows: int = 8,
    growth: float = 1.0,
    groups: Sequence[Sequence[int]] | None = None,
    model: ModelConfig = CONFIG,
    profile: Profile | None = None,
    factors: Mapping[ModelId, int] = ONE_TOY,
    transport: Transport | None = None,
    place_wait_s: float = 0.0,
    max_tokens: int = MAX_TOKENS,
    lands_for_owed: bool = False,
    has_grammars: bool = False,
    make_instance: Callable[..., Instance] = Instance,
    kv_events: KvEvents | None = None,
) -> Fleet:
    """`devices` instances on the first device, or one on each of `groups`.

    Args:
      transport: in place of the one that `config` names.
      factors: the models, by what they make of the sum.
      lands_for_owed: as on a CPU: first tokens that are owed compute alone, and for a
        while no step is launched ahead.
      has_grammars: requests may have grammars; the toy writes `toy_table`.
      make_instance: in place of `Instance`.
      kv_events: is told of cached prefixes.
    """
    shop = GuideShop(ring=lambda: None)
    config = config or FleetConfig()
    pool = ToyPool(
        groups or [[0]] * devices,
        model=model,
        num_pages=num_pages,
        prefix_cache=prefix_cache,
        factors=factors,
        max_tokens=max_tokens,
        lands_for_owed=lands_for_owed,
        parking=config.parking,
        shop=shop,
        make_instance=make_instance,
        has_news=kv_events is not None,
    )
    if transport is None:
        transport = DevicePut()
        if config.transport == "permute":
            transport = Permute(pool.devices, page=toy_page(model))
    spec = ModelSpec(
        capacity_pages=num_pages - 1,
        growth_pages_per_s=growth,
        max_rows=rows,
        page_bytes=PAGE_BYTES,
    )
    told = PolicyConfig(place_wait_s=place_wait_s)
    machine = Machine(
        models=dict.fromkeys(factors, spec), policy=POLICIES[policy](told)
    )
    if has_grammars:
        shop.learn(toy_table())
    return Fleet(
        models=[
            FleetModel(
                info=toy_info(
                    name=name,
                    eos=(TOY_END,) if has_grammars else (),
                    max_tokens=max_tokens,
                    num_pages=num_pages,
                ),
                transport=Checked(FaultyTransport(transport, fault=config.fault)),
            )
            for name in factors
        ],
        machine=machine,
        instance_pool=pool,
        profile=profile,
        clock=Clock(),
        config=config,
        shares_prefixes=prefix_cache,
        arrivals=ToyArrivals(),
        shops=dict.fromkeys(factors, shop),
        kv_events=kv_events,
    )

"""Fleets of toy instances, all on one CPU device so that steps compile once."""

from collections.abc import Mapping

import jax

from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.transport import DevicePut
from mell_jax.engine.frames import EngineInfo
from mell_jax.engine.instance import Instance
from mell_jax.scheduler.ids import DeviceId, ModelId
from mell_jax.scheduler.movable import MovableBatcher
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.plan import BatchLimits
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.prefix_cache import PrefixCache
from mell_jax.worker.group import DeviceGroup
from tests.toy import CONFIG, PAGE_TOKENS, VOCAB, toy_worker

TOY = ModelId("toy")
MAX_TOKENS = 128


class ToyWorkshop:
    """`count` device groups; an instance is built whenever one is opened."""

    def __init__(self, count: int, *, num_pages: int, prefix_cache: bool) -> None:
        group = DeviceGroup.of_model(CONFIG, devices=jax.devices()[:1])
        self._groups = {DeviceId(n): group for n in range(count)}
        self._num_pages = num_pages
        self._prefix_cache = prefix_cache
        self.opened = 0

    @property
    def devices(self) -> Mapping[DeviceId, DeviceGroup]:
        return self._groups

    def open(self, device: DeviceId, model: ModelId) -> Instance:
        self.opened += 1
        worker = toy_worker(num_pages=65, max_rows=8, token_budget=64, max_tokens=128)
        batcher = MovableBatcher(
            PrefixCache(PagePool(self._num_pages)),
            limits=BatchLimits(max_rows=8, token_budget=64, max_tokens=MAX_TOKENS),
            page_tokens=PAGE_TOKENS,
            shares_prefixes=self._prefix_cache,
        )
        return Instance(worker, batcher, max_rows=8)

    def close(self, device: DeviceId) -> None:
        pass


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.25
        return self.now_s


def toy_fleet(
    *,
    devices: int = 3,
    num_pages: int = 65,
    policy: str = "consolidate",
    config: FleetConfig | None = None,
    prefix_cache: bool = True,
    rows: int = 8,
    growth: float = 1.0,
) -> Fleet:
    info = EngineInfo(
        model_name="toy",
        model_type="toy",
        architecture="AdditiveToy",
        vocab_size=VOCAB,
        eos_token_ids=(),
        bos_token_id=None,
        max_model_len=MAX_TOKENS,
        max_rows=8,
        num_pages=num_pages,
        page_tokens=PAGE_TOKENS,
    )
    spec = ModelSpec(
        capacity_pages=num_pages - 1, growth_pages_per_s=growth, max_rows=rows
    )
    machine = Machine(models={TOY: spec}, policy=POLICIES[policy](PolicyConfig()))
    return Fleet(
        info=info,
        model=TOY,
        machine=machine,
        workshop=ToyWorkshop(devices, num_pages=num_pages, prefix_cache=prefix_cache),
        transport=DevicePut(),
        clock=Clock(),
        config=config,
        shares_prefixes=prefix_cache,
    )

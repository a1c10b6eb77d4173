"""Fleets that keep time and compute nothing: a clock that goes from event to event."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
import numpy.typing as npt

from mell_jax.engine.fleet.arrivals import Result
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.models import FleetModel
from mell_jax.engine.fleet.transport import DevicePut
from mell_jax.engine.instance import Instance
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec, StepTime
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.plan import BatchLimits
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.prefix_cache import PrefixCache
from mell_jax.scheduler.transfer import Mode
from mell_jax.worker.device import StepCall
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.held_weights import HeldWeights
from mell_jax.worker.layout import Bucket, StepInputs, part_shapes
from tests.toy import CONFIG, PAGE_TOKENS, toy_info

MAX_TOKENS = 4096
PAGES = 257


class Timeline:
    """A clock that stands still, but for waiting; what happens at a time is noted.

    It stands in for `Arrivals`, too.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits = 0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self.now_s

    def at(self, when_s: float, do: Callable[[], None]) -> None:
        self._due.append((when_s, do))

    def wait(self, results: Mapping[DeviceGroupId, Result], *, most_s: float) -> None:
        self.waits += 1
        steps = cast(Mapping[DeviceGroupId, "TimedStep"], results).values()
        dues = [when_s for when_s, _ in self._due]
        ends_s = [step.end_s for step in steps] + [self.now_s + most_s]
        self.now_s = max(self.now_s, min(ends_s + dues))
        for one in [one for one in self._due if one[0] <= self.now_s]:
            self._due.remove(one)
            one[1]()

    def ring(self) -> None: ...

    def end(self, *, most_s: float) -> None: ...


class TimedStep:
    """A step's results are there when its time has passed; all tokens are 7."""

    logprobs = staticmethod(lambda: None)

    def __init__(self, timeline: Timeline, *, rows: int, end_s: float) -> None:
        self._timeline, self._rows, self.end_s = timeline, rows, end_s

    @property
    def is_ready(self) -> bool:
        return self._timeline.now_s >= self.end_s

    def wait(self) -> None:
        assert self.is_ready, "somebody waits for one device, and not for the first"

    def tokens(self) -> npt.NDArray[np.int32]:
        self.wait()
        return np.full(self._rows, 7, np.int32)


class TimedWorker:
    """A worker whose steps take what their rows and pages do, one after the other."""

    is_ready = True

    def __init__(self, timeline: Timeline, *, step_time: StepTime) -> None:
        self._timeline, self._step_time = timeline, step_time
        self._free_s = 0.0
        self.steps = 0

    def choose_bucket(self, *, tokens: int, rows: int, is_decode: bool) -> Bucket:
        return Bucket(
            tokens=64, rows=8, pages=MAX_TOKENS // PAGE_TOKENS, is_decode=is_decode
        )

    def set_up_row(self, setup: object) -> None: ...

    def dispatch(self, call: StepCall) -> TimedStep:
        self.steps += 1
        begin_s = max(self._timeline.now_s, self._free_s)
        self._free_s = begin_s + self._takes_s(call)
        return TimedStep(self._timeline, rows=8, end_s=self._free_s)

    def _takes_s(self, call: StepCall) -> float:
        sizes = [math.prod(shape) for shape in part_shapes(call.bucket)]
        parts = np.split(call.vector, np.cumsum(sizes)[:-1])
        held = StepInputs(*parts).kv_lens
        pages = -(-held // PAGE_TOKENS)
        return self._step_time.predict(
            rows=int(np.count_nonzero(held)), pages=int(pages.sum())
        )

    def probe(self) -> TimedStep:
        return TimedStep(self._timeline, rows=8, end_s=self._timeline.now_s)


class TimedPool:
    """Device groups whose instances take so long a step, by the model."""

    def __init__(
        self,
        timeline: Timeline,
        *,
        devices: int,
        step_times: Mapping[ModelId, StepTime],
    ) -> None:
        group = DeviceGroup.of_model(CONFIG, devices=jax.devices()[:1])
        self._groups = {DeviceGroupId(n): group for n in range(devices)}
        self._timeline, self._step_times = timeline, step_times

    @property
    def devices(self) -> Mapping[DeviceGroupId, DeviceGroup]:
        return self._groups

    def open(self, device: DeviceGroupId, model: ModelId) -> Instance:
        batcher = Batcher(
            PrefixCache(PagePool(PAGES)),
            limits=BatchLimits(max_rows=8, token_budget=64, max_tokens=MAX_TOKENS),
            spec=CacheSpec(page_tokens=PAGE_TOKENS),
        )
        worker: Any = TimedWorker(self._timeline, step_time=self._step_times[model])
        return Instance(worker, batcher, max_rows=8)

    def close(self, device: DeviceGroupId) -> None: ...

    def held(self, model: ModelId) -> Mapping[DeviceGroupId, HeldWeights]:
        return {}


def timed_fleet(timeline: Timeline, *, step_s: Sequence[float]) -> Fleet:
    """A device for each model, named by its number, whose steps take `step_s`."""
    models = {
        ModelId(str(n)): StepTime(fixed_s=each_s) for n, each_s in enumerate(step_s)
    }
    return _fleet(timeline, models, devices=len(models), budget_s=math.inf)


def limited_fleet(
    timeline: Timeline, *, devices: int, step_time: StepTime, budget_s: float
) -> Fleet:
    """Devices for the model "0", whose placement keeps steps within `budget_s`."""
    models = {ModelId("0"): step_time}
    return _fleet(timeline, models, devices=devices, budget_s=budget_s)


def _fleet(
    timeline: Timeline,
    models: Mapping[ModelId, StepTime],
    *,
    devices: int,
    budget_s: float,
) -> Fleet:
    specs = {
        model: ModelSpec(
            capacity_pages=PAGES - 1,
            growth_pages_per_s=1.0,
            max_rows=8,
            page_bytes=1024,
            step_time=step_time,
            step_budget_s=budget_s,
        )
        for model, step_time in models.items()
    }
    policy = POLICIES["consolidate"](PolicyConfig(place_wait_s=0.0))
    return Fleet(
        models=[
            FleetModel(
                info=toy_info(name=name, max_tokens=MAX_TOKENS, num_pages=PAGES),
                transport=DevicePut(),
            )
            for name in models
        ],
        machine=Machine(models=specs, policy=policy),
        instance_pool=TimedPool(timeline, devices=devices, step_times=models),
        clock=timeline,
        arrivals=timeline,
        config=FleetConfig(mode=Mode.TOKENS),  # there are no pages
    )

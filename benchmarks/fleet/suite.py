"""`--suite=fleet` serves one slice of a trace under several placement policies.

The engine serves the slice on all instances, once per policy, and the simulator repeats
it at the speeds that the engine has shown: both must use as many devices. The instances
are compiled once. Time is that of devices of their own unless --fleet_clock=wall says
otherwise; see `timeline`.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tqdm import tqdm

from benchmarks.fleet.harness import (
    FleetHarness,
    build_harness,
    choose_devices,
    describe_devices,
)
from benchmarks.fleet.run import Run, serve
from benchmarks.fleet.simulation import Speeds, simulate
from benchmarks.fleet.timeline import DeviceTime, EveryArrival, Timeline, WallTime
from mell_jax.bench import workload
from mell_jax.bench.metrics import measure
from mell_jax.bench.replay import Order, orders_of
from mell_jax.bench.report import BenchReport, table
from mell_jax.bench.serving import ServingSettings, choose_shapes
from mell_jax.bench.stats import Summary, summarize
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES

FleetClock = Literal["devices", "wall"]
WAVE_REQUESTS_PER_S = 6.0
WAVE_PERIOD_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    requests: ServingSettings  # its engine is one of the instances
    policies: tuple[str, ...] = ("consolidate", "mell", "best_fit", "load_balance")
    instances: int = 8
    models: tuple[str, ...] = ()  # of the trace's column; empty: one for all rows
    epoch_s: float = 1.0
    clock: FleetClock = "devices"
    step_ms: float = 30.0  # of a device's decode step
    prefill_tokens_per_s: float = 8000.0  # of a device

    def __post_init__(self) -> None:
        unknown = sorted(set(self.policies) - set(POLICIES))
        if unknown or not self.policies:
            raise ValueError(f"policies must be of {sorted(POLICIES)}, got {unknown}")
        if not (self.instances >= 2):
            raise ValueError(f"instances must be at least 2, got {self.instances}")
        for name in ("epoch_s", "step_ms", "prefill_tokens_per_s"):
            if not (0.0 < getattr(self, name) < math.inf):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResult:
    """The result tells what users of one of several models felt."""

    model: str
    requests: int
    failed: int
    ttft_ms: Summary
    tpot_ms: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """The result is of one policy in the engine, and in the simulator."""

    policy: str
    devices_mean: float
    simulated_devices_mean: float
    deviation: float  # of the engine from the simulator, a share
    device_s: float
    duration_s: float
    migrations: int
    simulated_migrations: int
    failed_moves: int  # aborted, or overtaken by the end of the request
    bytes: int
    preemptions: int
    activations: int
    compilations: int  # during the run; must be 0
    failed_requests: int
    downtime_steps: Summary
    downtime_ms: Summary
    ttft_ms: Summary
    tpot_ms: Summary
    models: tuple[ModelResult, ...]
    speeds: Speeds


def run_fleet(settings: FleetSettings, *, progress: bool) -> BenchReport:
    """Serves the slice under every policy.

    Raises:
      WorkloadError: nothing to send, or a trace that cannot be read.
      ValueError: the model or its configuration cannot be used.
    """
    devices = choose_devices(settings.instances)
    engine = dataclasses.replace(
        settings.requests.engine, instances=settings.instances, device_ids=devices
    )
    harness = build_harness(engine, progress=progress, names=settings.models)
    orders, left_out = make_orders(harness, settings)
    total = len(orders) * len(settings.policies)
    bar = tqdm(total=total, unit="req", desc="fleet", disable=not progress)
    with contextlib.closing(bar):
        results = []
        for policy in settings.policies:
            bar.set_postfix_str(policy)
            results.append(
                measure_policy(
                    harness, orders, settings, policy=policy, on_done=bar.update
                )
            )
    about = f"{len(orders)} requests ({left_out} left out), {_time_text(settings)}"
    return BenchReport(
        suite="fleet",
        text=f"{describe_devices(devices)}, {about}\n\n{render(results)}",
        results={
            "requests": len(orders),
            "left_out": left_out,
            "devices": list(devices),
            "policies": [_plain(result) for result in results],
        },
    )


def render(results: Sequence[PolicyResult]) -> str:
    """Returns tables of devices, then moves, then what users feel."""
    devices = table(
        ("policy", "devices", "simulated", "deviation", "device-s", "duration s"),
        [
            (
                result.policy,
                result.devices_mean,
                result.simulated_devices_mean,
                f"{100 * result.deviation:+.1f}%",
                result.device_s,
                result.duration_s,
            )
            for result in results
        ],
    )
    moves = table(
        (
            *("policy", "moves", "simulated", "failed", "MiB", "preempted"),
            *("activated", "downtime steps p50", "p99", "ms p99"),
        ),
        [
            (
                result.policy,
                result.migrations,
                result.simulated_migrations,
                result.failed_moves,
                result.bytes / 2**20,
                result.preemptions,
                result.activations,
                result.downtime_steps.median,
                result.downtime_steps.p99,
                result.downtime_ms.p99,
            )
            for result in results
        ],
    )
    users = table(
        ("policy", "TTFT ms p50", "p99", "TPOT ms p50", "p99", "failed", "compiled"),
        [
            (
                result.policy,
                result.ttft_ms.median,
                result.ttft_ms.p99,
                result.tpot_ms.median,
                result.tpot_ms.p99,
                result.failed_requests,
                result.compilations,
            )
            for result in results
        ],
    )
    parts = [devices, moves, users]
    if any(len(result.models) > 1 for result in results):
        parts.append(_render_models(results))
    return "\n\n".join(parts)


def _render_models(results: Sequence[PolicyResult]) -> str:
    return table(
        (
            *("policy", "model", "requests", "failed"),
            *("TTFT ms p50", "p99", "max", "TPOT ms p50", "p99"),
        ),
        [
            (
                result.policy,
                model.model,
                model.requests,
                model.failed,
                model.ttft_ms.median,
                model.ttft_ms.p99,
                model.ttft_ms.max,
                model.tpot_ms.median,
                model.tpot_ms.p99,
            )
            for result in results
            for model in result.models
        ],
    )


def measure_policy(
    harness: FleetHarness,
    orders: Sequence[Order],
    settings: FleetSettings,
    *,
    policy: str,
    on_done: Callable[[int], object] = lambda count: None,
) -> PolicyResult:
    """Serves `orders` on a new fleet and repeats them in the simulator."""
    compiled, timeline = harness.compilations.count, _timeline(settings)
    fleet = harness.open_fleet(
        POLICIES[policy](PolicyConfig(epoch_s=settings.epoch_s)),
        clock=timeline.now_s,
        config=FleetConfig(policy=policy, epoch_s=settings.epoch_s),
        spec=_spec(harness, settings),
        arrivals=None if settings.clock == "wall" else EveryArrival(),
    )
    run = serve(fleet, orders, timeline=timeline, on_done=on_done)
    harness.close_fleet(fleet)
    compiled = harness.compilations.count - compiled
    return _judge(
        harness, orders, settings, policy=policy, run=run, compilations=compiled
    )


def _judge(
    harness: FleetHarness,
    orders: Sequence[Order],
    settings: FleetSettings,
    *,
    policy: str,
    run: Run,
    compilations: int,
) -> PolicyResult:
    spec = _spec(harness, settings)
    speeds = Speeds.of(run, page_bytes=spec.page_bytes)
    simulated = simulate(
        orders,
        speeds=speeds,
        spec=spec,
        models=harness.models,
        make_policy=lambda: POLICIES[policy](PolicyConfig(epoch_s=settings.epoch_s)),
        instances=settings.instances,
        epoch_s=settings.epoch_s,
    )
    metrics = measure(run.records, duration_s=run.duration_s)
    gaps = run.log.gaps()
    committed = sum(move.is_committed for move in run.log.moves)
    simulated_mean = simulated["devices_mean"]
    return PolicyResult(
        policy=policy,
        devices_mean=run.devices_mean,
        simulated_devices_mean=simulated_mean,
        deviation=run.devices_mean / simulated_mean - 1 if simulated_mean else 0.0,
        device_s=run.device_s,
        duration_s=run.duration_s,
        migrations=committed,
        simulated_migrations=int(simulated["migrations"]),
        failed_moves=len(run.log.moves) - committed,
        bytes=harness.transport.bytes,
        preemptions=run.log.preemptions,
        activations=run.log.activations,
        compilations=compilations,
        failed_requests=metrics.failed,
        downtime_steps=summarize([float(gap.steps) for gap in gaps]),
        downtime_ms=summarize([1e3 * gap.seconds for gap in gaps]),
        ttft_ms=metrics.ttft_ms,
        tpot_ms=metrics.tpot_ms,
        models=_by_model(orders, run=run),
        speeds=speeds,
    )


def _by_model(orders: Sequence[Order], *, run: Run) -> tuple[ModelResult, ...]:
    found = []
    for model in dict.fromkeys(order.model for order in orders):
        records = [
            record
            for order, record in zip(orders, run.records, strict=True)
            if order.model == model
        ]
        metrics = measure(records, duration_s=run.duration_s)
        found.append(
            ModelResult(
                model=model,
                requests=len(records),
                failed=metrics.failed,
                ttft_ms=metrics.ttft_ms,
                tpot_ms=metrics.tpot_ms,
            )
        )
    return tuple(found)


def make_orders(
    harness: FleetHarness, settings: FleetSettings
) -> tuple[list[Order], int]:
    """Returns the slice with prompts, sorted by arrival, and how many did not fit.

    Raises:
      WorkloadError: nothing to send, or a trace that cannot be read.
    """
    requests, info = settings.requests, harness.info
    shapes, left_out = choose_shapes(requests, context=info.max_model_len)
    strangers = {shape.model for shape in shapes} - set(settings.models)
    if settings.models and strangers:
        raise workload.WorkloadError(
            f"the trace names models that are not served: {sorted(strangers)}; give "
            "them in --models"
        )
    if requests.trace is None and requests.request_rate is None:
        shapes = workload.wave_arrivals(
            shapes,
            requests_per_s=WAVE_REQUESTS_PER_S,
            period_s=WAVE_PERIOD_S,
            seed=requests.seed,
        )
    prompts = workload.random_prompts(
        shapes,
        vocab_size=info.vocab_size,
        avoid=info.eos_token_ids,
        seed=requests.seed,
    )
    has_models = bool(settings.models)
    return orders_of(shapes, prompts, names_models=has_models), left_out


def _timeline(settings: FleetSettings) -> Timeline:
    if settings.clock == "wall":
        return WallTime()
    return DeviceTime(
        step_s=1e-3 * settings.step_ms,
        prefill_tokens_per_s=settings.prefill_tokens_per_s,
    )


def _spec(harness: FleetHarness, settings: FleetSettings) -> ModelSpec:
    """What placement takes an instance for, in the time of the run."""
    if settings.clock == "wall":
        return harness.spec
    growth = 1e3 / (settings.step_ms * harness.spec.page_tokens)
    return dataclasses.replace(harness.spec, growth_pages_per_s=growth)


def _time_text(settings: FleetSettings) -> str:
    if settings.clock == "wall":
        return "wall time"
    return (
        f"time of devices that decode a step in {settings.step_ms:g} ms and prefill "
        f"{settings.prefill_tokens_per_s:g} tokens/s"
    )


def _plain(result: PolicyResult) -> dict[str, object]:
    """For JSON, which knows no infinity."""
    plain = dataclasses.asdict(result)
    if result.speeds.link_gbps == math.inf:
        plain["speeds"]["link_gbps"] = None
    return plain

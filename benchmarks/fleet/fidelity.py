"""`--suite=fidelity` puts the simulator beside the engine.

A profile is fitted to the engine (`mell-bench --suite=profile` does the same), then the
engine serves a slice of a trace, and the simulator repeats it by the profile alone: it
knows nothing of the run but when requests came and how long they are. Compared is what
an operator pays, device-seconds, and what users feel.

The engine runs by the wall's clock, on the devices as they are or at a pace (`paced`),
or by a clock of these devices alone, in which Python takes no time.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.fleet.harness import (
    FleetHarness,
    build_harness,
    choose_devices,
    describe_devices,
)
from benchmarks.fleet.paced import CarriedAtOnce, opened_at_once, paced
from benchmarks.fleet.run import Run, serve
from benchmarks.fleet.suite import FleetClock
from benchmarks.fleet.timeline import EventTime, Timeline, TimelyArrivals, WallTime
from mell_jax.bench import workload
from mell_jax.bench.metrics import tpot_s, ttft_s
from mell_jax.bench.profile import Measured, measure_profile
from mell_jax.bench.profile import render as render_profile
from mell_jax.bench.replay import Order, orders_of
from mell_jax.bench.report import BenchReport, table
from mell_jax.bench.serving import ServingSettings, choose_shapes
from mell_jax.bench.stats import percentile
from mell_jax.bench.step_load import LoadSettings
from mell_jax.bench.still import Still
from mell_jax.engine.fleet.arrivals import Arrivals, WatchedArrivals
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.transport import DevicePut, Transport
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.simulator.fleet import SimulatedFleet
from mell_jax.scheduler.simulator.profile import Profile, read_profile
from mell_jax.scheduler.simulator.settings import settings_of
from mell_jax.scheduler.simulator.window import Window
from mell_jax.scheduler.simulator.workload import Workload

NEVER_S = 1e9
LEVELS = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelitySettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    requests: ServingSettings  # its engine is one of the instances
    policies: tuple[str, ...] = ("consolidate",)
    instances: int = 4
    epoch_s: float = 1.0
    slice_s: float | None = None  # requests that come later are left out
    pace: Path | None = None  # a profile; None: devices are as fast as they are
    clock: FleetClock = "wall"
    load: LoadSettings = field(default_factory=LoadSettings)  # for the profile

    def __post_init__(self) -> None:
        unknown = sorted(set(self.policies) - set(POLICIES))
        if unknown or not self.policies:
            raise ValueError(f"policies must be of {sorted(POLICIES)}, got {unknown}")
        if not (self.instances >= 2):
            raise ValueError(f"instances must be at least 2, got {self.instances}")
        for name in ("epoch_s", "slice_s"):
            value = getattr(self, name)
            if value is not None and not (0.0 < value < math.inf):
                raise ValueError(f"{name} must be positive, got {value}")
        if self.clock == "devices" and self.pace is None:
            raise ValueError(
                "fleet_clock is the devices', which have no pace: give one by --pace, "
                "or --fleet_clock=wall"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A figure of the engine and of the simulator."""

    name: str
    engine: float
    simulator: float

    @property
    def deviation(self) -> float | None:
        """Returns how much more the simulator says, as a share; None where the engine
        had none.
        """
        return self.simulator / self.engine - 1 if self.engine else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityResult:
    """One policy served the requests on both sides."""

    policy: str
    figures: tuple[Compared, ...]
    failed_requests: int
    compilations: int  # during the run; must be 0


def run_fidelity(settings: FidelitySettings, *, progress: bool) -> BenchReport:
    """Profiles the engine, and serves the slice on both sides.

    Raises:
      WorkloadError: nothing to send, or a trace that cannot be read.
      ValueError: the model, its configuration or the pace cannot be used, or the model
        has layers with a window.
      OSError: the pace cannot be read.
    """
    devices = choose_devices(settings.instances)
    engine = dataclasses.replace(
        settings.requests.engine, instances=settings.instances, device_ids=devices
    )
    harness = build_harness(engine, progress=progress)
    orders, left_out = make_orders(harness, settings)
    measured = profile_harness(harness, settings, progress=progress)
    results = [
        compare_policy(
            harness,
            orders,
            settings,
            policy=policy,
            profile=measured.profile,
            progress=progress,
        )
        for policy in settings.policies
    ]
    about = f"{describe_devices(devices)}, {len(orders)} requests, {left_out} left out"
    return BenchReport(
        suite="fidelity",
        text="\n\n".join(
            [about, render_profile(measured), *(render(result) for result in results)]
        ),
        results={
            "requests": len(orders),
            "left_out": left_out,
            "devices": list(devices),
            "profile": dataclasses.asdict(measured.profile),
            "speed": dataclasses.asdict(measured.speed),
            "policies": [_plain(result) for result in results],
        },
    )


def render(result: FidelityResult) -> str:
    """Returns a table of the figures of both sides."""
    return table(
        (result.policy, "engine", "simulator", "deviation"),
        [
            (one.name, one.engine, one.simulator, _percent(one.deviation))
            for one in result.figures
        ],
    )


def make_orders(
    harness: FleetHarness, settings: FidelitySettings
) -> tuple[list[Order], int]:
    """Returns the slice with prompts, sorted by arrival, and how many did not fit.

    Raises:
      WorkloadError: nothing to send, or a trace that cannot be read.
    """
    requests, info = settings.requests, harness.info
    shapes, left_out = choose_shapes(requests, context=info.max_model_len)
    end_s = math.inf if settings.slice_s is None else settings.slice_s
    shapes = [shape for shape in shapes if (shape.arrival_s or 0.0) < end_s]
    prompts = workload.random_prompts(
        shapes,
        vocab_size=info.vocab_size,
        avoid=info.eos_token_ids,
        seed=requests.seed,
    )
    return orders_of(shapes, prompts), left_out


def profile_harness(
    harness: FleetHarness, settings: FidelitySettings, *, progress: bool
) -> Measured:
    """Fits a profile to the instances of `harness`, all of them busy.

    Raises:
      ValueError: the model has layers with a window.
    """
    if not harness.spec.cache.is_plain:
        raise ValueError(
            f"{harness.models[0]} has layers with a window, which a profile does not "
            "know: give a model whose layers see everything"
        )
    with _rig(harness, settings) as rig:
        fleet = harness.open_fleet(
            Still(settings.instances),
            clock=rig.timeline.now_s,
            config=FleetConfig(epoch_s=NEVER_S),
            profile=harness.profile,
            transport=rig.transport,
            arrivals=rig.arrivals,
        )
        measured = measure_profile(
            fleet,
            settings.load,
            token_budget=max(
                bucket.tokens
                for worker in harness.workers.values()
                for bucket in worker.buckets
            ),
            progress=progress,
            clock=rig.timeline.now_s,
        )
        harness.close_fleet(fleet)
    return measured


def compare_policy(
    harness: FleetHarness,
    orders: Sequence[Order],
    settings: FidelitySettings,
    *,
    policy: str,
    profile: Profile,
    progress: bool,
) -> FidelityResult:
    """Serves `orders` on a new fleet, and in the simulator by `profile`."""
    compiled = harness.compilations.count
    told = PolicyConfig(epoch_s=settings.epoch_s)
    bar = tqdm(total=len(orders), desc=policy, disable=not progress)
    with _rig(harness, settings) as rig, contextlib.closing(bar):
        fleet = harness.open_fleet(
            POLICIES[policy](told),
            clock=rig.timeline.now_s,
            config=FleetConfig(policy=policy, epoch_s=settings.epoch_s),
            profile=harness.profile,
            transport=rig.transport,
            arrivals=rig.arrivals,
        )
        run = serve(fleet, orders, timeline=rig.timeline, on_done=bar.update)
        harness.close_fleet(fleet)
    simulated = simulate(
        harness,
        orders,
        machine=Machine(
            models={harness.models[0]: harness.spec}, policy=POLICIES[policy](told)
        ),
        profile=profile,
        settings=settings,
    )
    return FidelityResult(
        policy=policy,
        figures=compare(run, simulated),
        failed_requests=sum(bool(record.error) for record in run.records),
        compilations=harness.compilations.count - compiled,
    )


def simulate(
    harness: FleetHarness,
    orders: Sequence[Order],
    *,
    machine: Machine,
    profile: Profile,
    settings: FidelitySettings,
) -> SimulatedFleet:
    """Returns a simulated fleet of as many devices, after its run."""
    model = harness.models[0]
    fleet = SimulatedFleet(
        machine,
        workload=Workload(
            arrival_s=np.array([order.arrival_s for order in orders]),
            input_tokens=np.array([len(order.prompt) for order in orders]),
            output_tokens=np.array([order.output_tokens for order in orders]),
            models=(model,) * len(orders),
            name="fidelity",
        ),
        settings=dataclasses.replace(
            settings_of(profile),
            epoch_s=settings.epoch_s,
            max_devices=settings.instances,
            weights={ModelId(model): 1.0},
        ),
        clock=time.perf_counter,
    )
    fleet.meter.window = Window(start_s=0.0, end_s=NEVER_S)
    fleet.run()
    return fleet


def compare(run: Run, simulated: SimulatedFleet) -> tuple[Compared, ...]:
    """Returns the figures of both sides, times of requests in milliseconds."""
    done = [record for record in run.records if not record.error]
    several = [record for record in done if record.output_tokens > 1]
    felt = {
        "TTFT": (list(map(ttft_s, done)), simulated.meter.latencies.ttft_s),
        "TPOT": (list(map(tpot_s, several)), simulated.meter.latencies.tpot_s),
    }
    committed = sum(move.is_committed for move in run.log.moves)
    return (
        Compared(
            name="device-seconds",
            engine=run.device_s,
            simulator=simulated.meter.device_s,
        ),
        *(
            Compared(
                name=f"{name} p{level}, ms",
                engine=1e3 * percentile(engine, level),
                simulator=1e3 * percentile(list(own), level),
            )
            for name, (engine, own) in felt.items()
            for level in LEVELS
        ),
        Compared(name="moves", engine=committed, simulator=simulated.meter.migrations),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rig:
    """A rig has the clock of a fleet, what waits for its devices and what goes between.

    By the devices' clock nothing else takes time: not Python, not to open an instance
    or to carry pages.
    """

    timeline: Timeline
    arrivals: Arrivals
    transport: Transport


@contextlib.contextmanager
def _rig(harness: FleetHarness, settings: FidelitySettings) -> Iterator[_Rig]:
    """Yields a new rig, in which devices have their pace from time 0 on."""
    workers = harness.workers.values()
    with contextlib.ExitStack() as stack:
        if settings.clock == "devices":
            events = EventTime()
            transport = CarriedAtOnce(DevicePut())
            rig = _Rig(timeline=events, arrivals=events, transport=transport)
            stack.enter_context(opened_at_once(workers))
        else:
            wall = WallTime()
            arrivals = TimelyArrivals(WatchedArrivals(), timeline=wall)
            rig = _Rig(timeline=wall, arrivals=arrivals, transport=DevicePut())
        if settings.pace is not None:
            pace, now_s = read_profile(settings.pace), rig.timeline.now_s
            stack.enter_context(paced(workers, pace=pace, now_s=now_s))
        yield rig


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f}%"


def _plain(result: FidelityResult) -> dict[str, object]:
    figures = [
        dataclasses.asdict(one) | {"deviation": one.deviation} for one in result.figures
    ]
    return dataclasses.asdict(result) | {"figures": figures}

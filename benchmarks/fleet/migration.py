"""`--suite=migration` measures what moves cost requests, the others, and the host.

Downtime by length, throughput beside migrations, the way of the pages against a bare
copy, the host's part in driving many instances, and an idle fleet. The last two use a
model so small that the device leaves the host visible.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks.fleet.downtime import (
    Disturbance,
    Downtime,
    measure_disturbance,
    measure_downtime,
)
from benchmarks.fleet.driving import Driving, Idle, measure_driving, measure_idle
from benchmarks.fleet.harness import (
    FleetHarness,
    build_harness,
    choose_devices,
    describe_devices,
)
from benchmarks.fleet.transfer import Transfer, measure_transfer
from mell_jax.bench.report import BenchReport, table
from mell_jax.engine.config import EngineConfig

LENGTH_ROOM = 512  # tokens that the longest request may make while it is moved
SMALL_CONTEXT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    engine: EngineConfig
    instances: int = 8
    rows: int = 8  # of each instance
    lengths: tuple[int, ...] = (64, 256, 1024, 4096)
    moves: int = 24  # per length
    segment_s: float = 2.0
    share_per_s: float = 0.1  # of the requests
    transfer_bytes: int = 2**25
    steps: int = 100
    repeats: int = 5
    idle_s: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "moves", "steps", "repeats", "transfer_bytes"):
            if not (getattr(self, name) >= 1):
                raise ValueError(f"{name} must be at least 1")
        if not (self.instances >= 2):
            raise ValueError(f"instances must be at least 2, got {self.instances}")
        if not (self.lengths and min(self.lengths) >= 1):
            raise ValueError(f"lengths must be positive, got {self.lengths}")
        for name in ("segment_s", "share_per_s", "idle_s"):
            if not (getattr(self, name) > 0.0):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def large(self) -> EngineConfig:
        """Returns instances that hold the longest request and what stands beside it."""
        context = max(self.lengths) + LENGTH_ROOM
        rows = self.engine.max_rows or self.rows + 1
        return dataclasses.replace(
            self.engine,
            instances=self.instances,
            device_ids=choose_devices(self.instances),
            max_model_len=self.engine.max_model_len or context,
            max_rows=rows,
            decode_rows=(rows,),
            token_budget=self.engine.token_budget or max(rows, 512),
            kv_pages=self.engine.kv_pages or 2 * (-(-context // 16)) + 1,
            prefix_cache=False,
        )

    @property
    def small(self) -> EngineConfig:
        """Returns instances whose steps take no time worth mentioning."""
        return dataclasses.replace(
            self.large,
            model="random:tiny",
            max_model_len=SMALL_CONTEXT,
            max_rows=self.rows,
            decode_rows=(self.rows,),
            token_budget=max(64, self.rows),
            kv_pages=self.rows * SMALL_CONTEXT // 16 + 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationResult:
    """A result has all parts."""

    downtimes: tuple[Downtime, ...]
    disturbance: Disturbance
    transfer: Transfer
    driving: Driving
    idle: Idle
    compilations: int  # while it was measured; must be 0


def run_migration(settings: MigrationSettings, *, progress: bool) -> BenchReport:
    """Measures everything.

    Raises:
      ValueError: the model or its configuration cannot be used.
    """
    large = build_harness(settings.large, progress=progress)
    small = build_harness(settings.small, progress=progress)
    total = len(settings.lengths) + 2 * settings.repeats + 3
    bar = tqdm(total=total, desc="migration", unit="part", disable=not progress)
    with contextlib.closing(bar):
        result = measure_all(large, small, settings, bar=bar)
    where = describe_devices(choose_devices(settings.instances))
    return BenchReport(
        suite="migration",
        text=f"{settings.engine.model}, {where}\n\n{render(result)}",
        results=dataclasses.asdict(result),
    )


def measure_all(
    large: FleetHarness,
    small: FleetHarness,
    settings: MigrationSettings,
    *,
    bar: "tqdm[Any]",
) -> MigrationResult:
    """Returns one part after the other, on instances that are built."""
    transfer = measure_transfer(
        large, size_bytes=settings.transfer_bytes, repeats=settings.repeats
    )
    bar.update()
    compiled = large.compilations.count  # a bare copy is compiled, too
    downtimes = []
    for tokens in settings.lengths:
        downtimes.append(
            measure_downtime(
                large, tokens=tokens, moves=settings.moves, instances=2, seed=tokens
            )
        )
        bar.update()
    disturbance = measure_disturbance(
        large,
        instances=settings.instances,
        rows=settings.rows,
        segments=settings.repeats,
        segment_s=settings.segment_s,
        share_per_s=settings.share_per_s,
        seed=settings.seed,
        on_segment=bar.update,
    )
    driving = measure_driving(
        small,
        instances=settings.instances,
        rows=settings.rows,
        steps=settings.steps,
        repeats=settings.repeats,
        seed=settings.seed,
    )
    bar.update()
    idle = measure_idle(small, instances=settings.instances, seconds=settings.idle_s)
    bar.update()
    return MigrationResult(
        downtimes=tuple(downtimes),
        disturbance=disturbance,
        transfer=transfer,
        driving=driving,
        idle=idle,
        compilations=large.compilations.count - compiled,
    )


def render(result: MigrationResult) -> str:
    """Returns a paragraph for each part."""
    parts = [
        _downtime_table(result.downtimes),
        _disturbance_text(result.disturbance),
        _transfer_table(result.transfer),
        _driving_table(result.driving),
        f"idle for {result.idle.seconds:.0f} s: {100 * result.idle.cpu_share:.2f}% of "
        f"a core; {result.compilations} compilations while measuring",
    ]
    return "\n\n".join(parts)


def _downtime_table(downtimes: Sequence[Downtime]) -> str:
    header = ("tokens", "moves", "downtime steps p50", "p99", "ms p50", "p99")
    return table(
        (*header, "step ms", "steps of a move"),
        [
            (
                str(down.tokens),
                down.moves,
                down.steps.median,
                down.steps.p99,
                down.ms.median,
                down.ms.p99,
                down.step_ms,
                down.spans.median,
            )
            for down in downtimes
        ],
    )


def _disturbance_text(disturbance: Disturbance) -> str:
    return (
        f"{disturbance.requests} requests, {disturbance.moves_per_s:.1f} moves/s: each "
        f"of the others makes {disturbance.moving_tokens_per_s:.1f} tokens/s instead "
        f"of {disturbance.still_tokens_per_s:.1f}, ratio {disturbance.ratio:.3f}"
    )


def _transfer_table(transfer: Transfer) -> str:
    steps = (
        ("gather", transfer.gather_ms),
        ("put", transfer.put_ms),
        ("scatter", transfer.scatter_ms),
        ("all three", transfer.whole_ms),
        ("bare copy", transfer.bare_ms),
    )
    where = "within a device" if transfer.is_one_device else "between devices"
    name = f"{transfer.bytes / 2**20:.0f} MiB {where}"
    rows = [(step, ms, transfer.bytes / ms / 1e6) for step, ms in steps]
    return (
        table((name, "ms", "GB/s"), rows)
        + f"\nratio of the bare copy to all three: {transfer.ratio:.3f}"
    )


def _driving_table(driving: Driving) -> str:
    header = ("instances x rows", "round ms", "bare", "overhead/step", "python/step")
    return table(
        (*header, "dispatch/step", "wait/step"),
        [
            (
                f"{driving.instances} x {driving.rows}",
                driving.round_ms,
                driving.bare_ms,
                driving.overhead_ms,
                driving.python_ms,
                driving.dispatch_ms,
                driving.wait_ms,
            )
        ],
    )

"""`--suite=service` measures what front ends cost, and how they behave under abuse.

    streams    CPU per message, lateness of tokens, the engine's steps
    flood      ten times as many clients as are let in: how fast the others are refused
    fairness   a light tenant's first token beside another one's flood
    cancels    from a client that leaves to its pages free, with a real engine
    churn      --churn_minutes of requests that come and go: what memory does meanwhile

The client runs on the same machine and needs about as much as a front end: with fewer
than three cores the figures of many streams are the machine's, not the service's.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks.service.cancels import measure_cancels, render_cancels
from benchmarks.service.churn import measure_churn, render_churn
from benchmarks.service.fairness import measure_fairness, render_fairness
from benchmarks.service.flood import measure_flood, render_flood
from benchmarks.service.streams import measure, render
from mell_jax.bench.report import BenchReport
from mell_jax.engine.config import EngineConfig

PARTS = ("streams", "flood", "fairness", "cancels")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    parts: tuple[str, ...] = PARTS
    streams: tuple[int, ...] = (1, 64, 512, 1024)
    frontends: int = 1  # 0: in the engine's process
    step_ms: float = 20.0
    seconds: float = 5.0  # that count, of each number of streams and each part
    churn_minutes: float = 0.0  # 0: without
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    """Of fairness, cancels and churn."""

    def __post_init__(self) -> None:
        if not (set(self.parts) <= set(PARTS)):
            raise ValueError(
                f"service_parts must be some of {', '.join(PARTS)}, got {self.parts}"
            )
        if not (self.streams and min(self.streams) >= 1):
            raise ValueError(f"batch_sizes must be positive, got {self.streams}")
        if not (0 <= self.frontends <= 64):
            raise ValueError(f"frontends must be from 0 to 64, got {self.frontends}")
        for name in ("step_ms", "seconds"):
            if not (getattr(self, name) > 0.0):
                raise ValueError(f"{name} must be positive")
        if not (0.0 <= self.churn_minutes <= 1e4):
            raise ValueError(
                f"churn_minutes must be from 0 to 10000, got {self.churn_minutes}"
            )


def run_service(settings: ServiceSettings, *, progress: bool) -> BenchReport:
    """Measures all parts, each with servers of its own.

    Raises:
      RuntimeError: a server does not start, or does not do what it should.
    """
    runs = {
        "streams": _streams,
        "flood": _flood,
        "fairness": _fairness,
        "cancels": _cancels,
        "churn": _churn,
    }
    wanted = [part for part in PARTS if part in settings.parts]
    if settings.churn_minutes:
        wanted.append("churn")
    where = f"{settings.frontends} front ends" if settings.frontends else "in process"
    texts: list[str] = [f"steps of {settings.step_ms:g} ms, {where}"]
    results: dict[str, Any] = {}
    for part in wanted:
        text, results[part] = runs[part](settings, progress)
        texts.append(text)
    return BenchReport(suite="service", text="\n\n".join(texts), results=results)


def _streams(settings: ServiceSettings, progress: bool) -> tuple[str, Any]:
    bar = tqdm(settings.streams, desc="service", unit="run", disable=not progress)
    results = [
        measure(
            streams,
            step_ms=settings.step_ms,
            frontends=settings.frontends,
            seconds=settings.seconds,
        )
        for streams in bar
    ]
    return render(results), [dataclasses.asdict(result) for result in results]


def _flood(settings: ServiceSettings, _: bool) -> tuple[str, Any]:
    flood = measure_flood(
        step_ms=settings.step_ms,
        frontends=settings.frontends,
        seconds=settings.seconds,
    )
    return render_flood(flood), dataclasses.asdict(flood)


def _fairness(settings: ServiceSettings, _: bool) -> tuple[str, Any]:
    fairness = measure_fairness(
        settings.engine, frontends=settings.frontends, seconds=settings.seconds
    )
    return render_fairness(fairness), dataclasses.asdict(fairness)


def _cancels(settings: ServiceSettings, _: bool) -> tuple[str, Any]:
    cancels = measure_cancels(
        settings.engine, frontends=settings.frontends, seconds=settings.seconds
    )
    return render_cancels(cancels), dataclasses.asdict(cancels)


def _churn(settings: ServiceSettings, progress: bool) -> tuple[str, Any]:
    churn = measure_churn(
        settings.engine,
        frontends=settings.frontends,
        minutes=settings.churn_minutes,
        progress=progress,
    )
    return render_churn(churn), dataclasses.asdict(churn)

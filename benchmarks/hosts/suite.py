"""`--suite=hosts` measures what it costs that a fleet is of many processes.

    tokens      a fleet of two hosts beside two separate servers
    recovery    kill -9 of a host: until its last stream has a token again
    controller  what one core decides for, without links
    move        pages from host to host

Servers, hosts and clients share this machine. Each part starts processes of its own.
"""

import dataclasses
import importlib
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.hosts.controller import ControllerFigures, measure_controller
from benchmarks.hosts.recovery import measure_recovery, render_recovery
from benchmarks.hosts.tokens import measure_tokens, render_tokens
from mell_jax.bench.measure import Save
from mell_jax.bench.report import BenchReport, line

_MOVE = "benchmarks.hosts.move"
_HAS_MOVE = importlib.util.find_spec(_MOVE) is not None
PARTS = ("tokens", "recovery", "controller", *(["move"] if _HAS_MOVE else []))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsSettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    parts: tuple[str, ...] = PARTS
    model: str = "random:30m"  # of tokens
    recovery_model: str = "demo"
    streams: int = 32
    seconds: float = 15.0  # that count, of each turn of tokens
    repeats: int = 5  # turns, and kills
    controlled_streams: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.parts and set(self.parts) <= set(PARTS)):
            raise ValueError(
                f"hosts_parts must be some of {', '.join(PARTS)}, got {self.parts}"
            )
        if not (self.streams >= 6 and self.streams % 2 == 0):
            raise ValueError(
                f"batch_sizes must be one even number from 6 on, got {self.streams}"
            )
        if not (self.seconds > 0.0):
            raise ValueError(f"seconds must be positive, got {self.seconds}")
        if not (self.repeats >= 1):
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")


def run_hosts(settings: HostsSettings, *, save: Save) -> BenchReport:
    """Measures all parts, and keeps what is known after each.

    Raises:
      RuntimeError: a process does not start, or a stream fails.
    """
    runs = {
        "tokens": _tokens,
        "recovery": _recovery,
        "controller": _controller,
        "move": _move,
    }
    texts: list[str] = []
    results: dict[str, Any] = {}
    for part in PARTS:
        if part not in settings.parts:
            continue
        with tempfile.TemporaryDirectory(prefix="mell-bench-") as folder:
            text, results[part] = runs[part](settings, Path(folder))
        texts.append(text)
        report = BenchReport(suite="hosts", text="\n\n".join(texts), results=results)
        save(report)
    return report


def _tokens(settings: HostsSettings, folder: Path) -> tuple[str, Any]:
    figures = measure_tokens(
        folder,
        model=settings.model,
        streams=settings.streams,
        seconds=settings.seconds,
        turns=settings.repeats,
        seed=settings.seed,
    )
    return render_tokens(figures), dataclasses.asdict(figures)


def _recovery(settings: HostsSettings, folder: Path) -> tuple[str, Any]:
    figures = measure_recovery(
        folder,
        model=settings.recovery_model,
        streams=settings.streams,
        kills=settings.repeats,
        seed=settings.seed,
    )
    return render_recovery(figures), dataclasses.asdict(figures)


def _controller(settings: HostsSettings, _: Path) -> tuple[str, Any]:
    figures = measure_controller(
        streams=settings.controlled_streams, seed=settings.seed
    )
    return render_controller(figures), dataclasses.asdict(figures)


def render_controller(figures: ControllerFigures) -> str:
    """Returns a line per figure."""
    return "\n".join(
        (
            f"{figures.hosts} hosts of {figures.groups} device groups, "
            f"{figures.streams} streams, {figures.policy}",
            line("CPU per 1,000 events, ms", figures.cpu_ms_per_1000_events),
            line("an event, p99 us", figures.event_us_p99),
            line("streams that one core decides for", figures.streams_per_core),
            line("memory, MiB", figures.memory_mib),
        )
    )


def _move(_: HostsSettings, __: Path) -> tuple[str, Any]:
    """Measures moves by the module that does."""
    found: dict[str, Any] = importlib.import_module(_MOVE).measure_move()
    return "\n".join(line(name, str(value)) for name, value in found.items()), found

"""A suite hands back a report, which is printed and written here."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mell_jax.bench.machine import MachineInfo

WIDTH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """A report holds the outcome of one suite."""

    suite: str
    text: str  # for a person
    results: Mapping[str, Any]  # for a program; numbers, strings, lists and mappings


def write_json(
    path: Path,
    *,
    report: BenchReport,
    settings: Any,
    command: str,
    machine: MachineInfo,
) -> None:
    """Writes everything that is known about a run.

    Args:
      settings: the suite's frozen dataclass of settings.
      command: what was typed.
    """
    document = {
        "suite": report.suite,
        "command": command,
        "settings": dataclasses.asdict(settings),
        "machine": dataclasses.asdict(machine),
        "results": report.results,
    }
    text = json.dumps(document, indent=2, default=str, allow_nan=False)
    path.write_text(text + "\n")


def title(text: str, *, fill: str = "=") -> str:
    """Returns a line with `text` in its middle: ===== text ====="""
    return f" {text} ".center(WIDTH, fill) if text else fill * WIDTH


def line(name: str, value: str | float) -> str:
    """Returns a name on the left, its value on the right."""
    shown = value if isinstance(value, str) else _number(value)
    return f"{name + ':':<{WIDTH - 10}}{shown:>10}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns columns as wide as they need to be; the first one to the left."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """Three digits at least, and no more decimals than they need."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"

"""A figure of the kernels suite is a number or a failure, with its goal.

Figures are plain mappings, since they cross from the process that measures to the one
that reports as lines of JSON.
"""

import math
from collections.abc import Callable
from typing import Any

Figure = dict[str, Any]
FAILURES = (  # of a kernel, a compiler, a device or a rival: each costs its figure only
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
NOTE_CHARACTERS = 160


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    ratio: float | None = None,
    goal: float | None = None,
    note: str = "",
) -> Figure:
    """Returns a number; one that is not finite becomes a failure, which JSON can hold.

    Args:
      ratio: what the goal is about; at least `goal` is good.
    """
    if not all(math.isfinite(x) for x in (value, ratio or 0.0)):
        return failure(name, f"not finite: value {value}, ratio {ratio}", goal=goal)
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "ratio": ratio,
        "goal": goal,
        "note": note,
    }


def failure(name: str, why: str, *, goal: float | None = None) -> Figure:
    """Returns a figure that could not be had."""
    return {
        "name": name,
        "value": None,
        "unit": "",
        "ratio": None,
        "goal": goal,
        "note": why,
    }


def attempt(name: str, measure: Callable[[], Figure]) -> Figure:
    """Returns what `measure` returns, or why it failed."""
    try:
        return measure()
    except FAILURES as error:
        return failure(name, short(error))


def short(error: BaseException) -> str:
    """Returns the kind of an error and its first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:NOTE_CHARACTERS]


def ratio_of(part: float, whole: float | None) -> float | None:
    """Returns None where there is nothing to compare with."""
    return part / whole if whole else None


def is_short(one: Figure) -> bool:
    """Returns whether a figure misses its goal; a failure has no ratio at all."""
    ratio, goal = one["ratio"], one["goal"]
    return ratio is not None and goal is not None and ratio < goal

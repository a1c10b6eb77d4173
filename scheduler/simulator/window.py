"""Means are taken over a window of a run, when it is under way and still fed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Means are taken from `start_s` to `end_s`."""

    start_s: float
    end_s: float

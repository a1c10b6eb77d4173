"""Runs what prints figures in a process of its own, which may die or take too long."""

import json
import subprocess
import tempfile
import threading
from collections.abc import Generator, Sequence
from enum import StrEnum

from benchmarks.kernels.figures import Figure, failure


class Ended(StrEnum):
    """A process ended in this way."""

    WELL = "done"
    LATE = "late"
    DEAD = "died"


def run_apart(
    command: Sequence[str], *, name: str, limit_s: float
) -> Generator[Figure, None, Ended]:
    """Yields the figures that a process prints; a failure more if it does not end well.

    Args:
      command: prints figures as lines of JSON; other lines are dropped.
      name: of the failure.
      limit_s: after which the process is killed.

    Returns:
      How the process ended.
    """
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        is_late = threading.Event()

        def kill() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(limit_s, kill)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                one = _parsed(line)
                if one is not None:
                    yield one
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
        if is_late.is_set():
            yield failure(name, f"killed after {limit_s:.0f} s")
            return Ended.LATE
        if status:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            yield failure(name, f"died with status {status}: {last[:200]}")
            return Ended.DEAD
        return Ended.WELL


def _parsed(line: str) -> Figure | None:
    try:
        one = json.loads(line)
    except ValueError:
        return None
    return one if isinstance(one, dict) and "name" in one else None

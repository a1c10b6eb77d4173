"""A run of a suite: the machine is described, figures are printed and kept as JSON."""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from mell_jax.bench.machine import look_around
from mell_jax.bench.report import BenchReport, write_json
from mell_jax.worker.cpu_devices import use_cpu_devices

Save = Callable[[BenchReport], None]
"""Keeps what is known so far."""
Suite = Callable[[Save], BenchReport]
Settle = Callable[[flags.FlagValues], tuple[object, Suite]]
"""Makes settings and a suite of flags; raises ValueError for a wrong flag."""


def measure(values: flags.FlagValues, *, command: str, settle: Settle) -> None:
    """Runs a suite, prints its report and writes it where the flags say.

    Args:
      values: the parsed flags.
      command: the command line, for the JSON.
      settle: makes settings and a suite of the flags.

    Raises:
      ValueError: a flag is out of range.
    """
    if values.cpu_devices is not None:
        use_cpu_devices(values.cpu_devices)
    settings, suite = settle(values)
    machine = look_around()
    print(machine, file=sys.stderr)

    def save(report: BenchReport) -> None:
        if values.output_json is not None:
            write_json(
                Path(values.output_json),
                report=report,
                settings=settings,
                command=command,
                machine=machine,
            )

    report = suite(save)
    print(report.text)
    save(report)

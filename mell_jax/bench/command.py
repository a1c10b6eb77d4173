"""Runs a benchmark as a program: flags in, a table and JSON out, errors in one line.

`mell-bench` and the laboratory of this repository are both such programs.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:  # it imports jax: slow, and needless for --help
    from mell_jax.bench.report import BenchReport

Save = Callable[["BenchReport"], None]
"""Keeps what is known so far."""
Suite = Callable[[Save], "BenchReport"]
Settle = Callable[[flags.FlagValues], tuple[object, Suite]]
"""From flags to settings and what measures; raises ValueError for a wrong flag."""


def run_command(
    values: flags.FlagValues,
    *,
    argv: Sequence[str],
    name: str,
    about: str,
    settle: Settle,
) -> int:
    """Runs a benchmark from its command line; returns the exit status.

    Args:
      values: the flags, defined and not parsed yet.
      argv: the command line, program first.
      name: how users call the program.
      about: what --help says before the flags.
      settle: makes settings and a suite of the parsed flags.
    """
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{about}{values.get_help()}")
        return 0
    try:
        extra = values(list(argv))[1:]
    except flags.Error as error:
        print(f"{name}: {error}; --help lists all flags", file=sys.stderr)
        return 2
    if extra:
        print(f"{name}: takes flags only, got {extra[0]!r}", file=sys.stderr)
        return 2
    try:
        _measure(values, command=shlex.join([name, *argv[1:]]), settle=settle)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _measure(values: flags.FlagValues, *, command: str, settle: Settle) -> None:
    from mell_jax.bench.machine import look_around  # noqa: PLC0415 it imports jax
    from mell_jax.bench.report import write_json  # noqa: PLC0415
    from mell_jax.worker.cpu_devices import use_cpu_devices  # noqa: PLC0415

    if values.cpu_devices is not None:
        use_cpu_devices(values.cpu_devices)
    settings, suite = settle(values)
    machine = look_around()
    print(machine, file=sys.stderr)

    def save(report: "BenchReport") -> None:
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

"""Runs a benchmark as a program: flags in, a table and JSON out, errors in one line.

`mell-bench` and the laboratory of this repository are both such programs.
"""

import shlex
import sys
from collections.abc import Callable, Sequence

from absl import flags

Measure = Callable[[flags.FlagValues, str], None]
"""Measures as the flags say, and writes down the command line; imports jax."""


def run_command(
    values: flags.FlagValues,
    *,
    argv: Sequence[str],
    name: str,
    about: str,
    measure: Measure,
) -> int:
    """Runs a benchmark from its command line; returns the exit status.

    Args:
      values: the flags, defined and not parsed yet.
      argv: the command line, program first.
      name: how users call the program.
      about: what --help says before the flags.
      measure: takes the parsed flags and the command line; may raise ValueError for a
        wrong flag.
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
        measure(values, " ".join([name, *map(shlex.quote, argv[1:])]))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0

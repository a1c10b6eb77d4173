"""Programs begin with flags of absl, and end without taking Python apart.

What they say meanwhile may be lost: a full disk is no reason to end.
"""

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags


def run_program(
    main: Callable[[Sequence[str]], int | None], *, modules: Sequence[str]
) -> None:
    """Runs `main` and ends the process with its status.

    Args:
      main: takes the arguments that are no flags.
      modules: names of the modules whose flags `--help` shows.
    """
    for module in modules:
        for flag in flags.FLAGS.get_flags_for_module(module):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main)


def run_and_leave(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs `main` with the command line; leaves with its status, whatever it raises."""
    try:
        status = main(sys.argv)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except Exception:  # the edge: what nobody caught is told as Python tells it
        traceback.print_exc()
        status = 1
    leave(status)


def say(text: str, *, to_error: bool = False) -> None:
    """Writes a line at once; one that cannot be written is lost.

    That may be as its disk is full, or its reader has left: a server serves on.

    Args:
      to_error: to the standard error, not to the standard output.
    """
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr if to_error else sys.stdout, flush=True)


def leave(status: int) -> NoReturn:
    """Ends the process with a status, once what was written is out.

    Python is not taken apart: a thread that comes back from a native library while that
    happens aborts the process, and one that never comes back would hold it up.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)

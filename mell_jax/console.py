"""A program of absl is started by a script that defines no flags itself."""

import sys
from collections.abc import Callable, Sequence

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

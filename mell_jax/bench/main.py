"""mell-bench: measures how a server, or an engine in this process, serves requests.

    mell-bench                                         # the demo model, in this process
    mell-bench --address=localhost:50051 --request_rate=8
    mell-bench --trace=azure_conv.csv.gz --length_scale=auto --max_concurrency=64

Measure on an idle machine; its load average is printed and written with the figures.
"""

import sys
from collections.abc import Sequence

from absl import flags

from mell_jax.bench.command import Save, Suite, run_command
from mell_jax.bench.flags import define_common, define_requests


def main(argv: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    values = flags.FlagValues()
    define_common(values)
    define_requests(values)
    return run_command(
        values, argv=argv, name="mell-bench", about=__doc__ or "", settle=_settle
    )


def _settle(values: flags.FlagValues) -> tuple[object, Suite]:
    from mell_jax.bench.report import BenchReport  # noqa: PLC0415 imports jax
    from mell_jax.bench.serving import run_serving  # noqa: PLC0415 imports jax
    from mell_jax.bench.settle import (  # noqa: PLC0415 imports jax
        engine_config,
        request_settings,
    )

    settings = request_settings(values, engine=engine_config(values, model="demo"))

    def suite(_: Save) -> BenchReport:
        return run_serving(settings, progress=values.progress)

    return settings, suite


def run() -> None:
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()

"""mell-bench: measures how a server, or an engine in this process, serves requests.

    mell-bench                                         # the demo model, in this process
    mell-bench --address=localhost:50051 --request_rate=8
    mell-bench --trace=azure_conv.csv.gz --length_scale=auto --max_concurrency=64

Measure on an idle machine; its load average is printed and written with the figures.
"""

import sys
from collections.abc import Sequence

from absl import flags

from mell_jax.bench.command import run_command
from mell_jax.bench.flags import define_common, define_requests


def main(argv: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    if any(word.lstrip("-").startswith("suite") for word in argv[1:]):
        print(
            "mell-bench: it measures serving, and suites are measured in a checkout of "
            "the project: python -m benchmarks --suite=rl, for instance",
            file=sys.stderr,
        )
        return 2
    values = flags.FlagValues()
    define_common(values)
    define_requests(values)
    return run_command(
        values, argv=argv, name="mell-bench", about=__doc__ or "", measure=_measure
    )


def _measure(values: flags.FlagValues, command: str) -> None:
    # It imports jax: slow, and needless for --help.
    from mell_jax.bench.settle import measure_serving  # noqa: PLC0415

    measure_serving(values, command=command)


def run() -> None:
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()

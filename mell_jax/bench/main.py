"""mell-bench: measures how a server, or an engine in this process, serves requests.

    mell-bench                                         # the demo model, in this process
    mell-bench --address=localhost:50051 --request_rate=8
    mell-bench --trace=azure_conv.csv.gz --length_scale=auto --max_concurrency=64
    mell-bench --suite=profile --model=DIR --devices=2 --profile=device.json

The last one measures how fast steps, links and loading are here and writes it down for
mell-simulate and mell-plan; with two devices or more it knows the links, too.

Measure on an idle machine; its load average is printed and written with the figures.
"""

import sys
from collections.abc import Sequence

from absl import flags

from mell_jax.bench.command import run_command
from mell_jax.bench.flags import SUITES, define_common, define_requests, define_suites


def main(argv: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    asked = [word.partition("=")[2] for word in argv[1:] if _names_suite(word)]
    if asked and asked[-1] not in ("", *SUITES):
        print(
            f"mell-bench: its suites are {' and '.join(SUITES)}; others are measured "
            "in a checkout of the project: python -m benchmarks --suite=rl",
            file=sys.stderr,
        )
        return 2
    values = flags.FlagValues()
    define_common(values)
    define_requests(values)
    define_suites(values)
    return run_command(
        values, argv=argv, name="mell-bench", about=__doc__ or "", measure=_measure
    )


def _names_suite(word: str) -> bool:
    return word.startswith("-") and word.lstrip("-").partition("=")[0] == "suite"


def _measure(values: flags.FlagValues, command: str) -> None:
    # It imports jax: slow, and needless for --help.
    from mell_jax.bench.settle import measure_suite  # noqa: PLC0415

    measure_suite(values, command=command)


def run() -> None:
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()

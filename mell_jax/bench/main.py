"""mell-bench: measures the engine.

    mell-bench                                         # serving, the demo model
    mell-bench --address=localhost:50051 --request_rate=8
    mell-bench --trace=azure_conv.csv.gz --length_scale=auto --max_concurrency=64
    mell-bench --suite=decode --torch_python=/path/with/transformers/bin/python
    mell-bench --suite=overhead
    mell-bench --suite=startup
    mell-bench --suite=kernels --tune --output_json=kernels.json      # on a GPU
    mell-bench --suite=fleet --trace=azure_conv.csv.gz --length_scale=auto
    mell-bench --suite=migration
    mell-bench --suite=service --frontends=1
    mell-bench --suite=service --service_parts=flood --churn_minutes=10

--suite is one of: serving (requests against a server or in this process), decode (the
engine, its bare step and transformers side by side), overhead (what the host adds to a
step, and where), startup (seconds until ready), kernels (attention and page moves
against what the device can do), fleet (a slice of a trace on several instances under
several policies), migration (what moving requests costs them and the others), service
(what front ends cost, with an engine that only keeps time; floods, cancels, churn).
Measure on an idle machine; its load average is printed and written with the figures.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mell_jax.bench.flags import define_flags
from mell_jax.bench.suites import settle


def help_text(values: flags.FlagValues) -> str:
    """What --help prints."""
    return f"{__doc__}{values.get_help()}"


def main(argv: Sequence[str]) -> int:
    """Runs one suite; returns the exit status."""
    values = define_flags()
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(help_text(values))
        return 0
    try:
        extra = values(list(argv))[1:]
    except flags.Error as error:
        print(f"mell-bench: {error}; --help lists all flags", file=sys.stderr)
        return 2
    if extra:
        print(f"mell-bench: takes flags only, got {extra[0]!r}", file=sys.stderr)
        return 2
    try:
        _measure(values, command=shlex.join(["mell-bench", *argv[1:]]))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"mell-bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _measure(values: flags.FlagValues, *, command: str) -> None:
    from mell_jax.bench.machine import look_around  # noqa: PLC0415 it imports jax
    from mell_jax.bench.report import Report, write_json  # noqa: PLC0415
    from mell_jax.worker.cpu_devices import use_cpu_devices  # noqa: PLC0415

    if values.cpu_devices is not None:
        use_cpu_devices(values.cpu_devices)
    settings, suite = settle(values)
    machine = look_around()
    print(machine, file=sys.stderr)

    def save(report: Report) -> None:
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


def run() -> None:
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()

"""Measures the engine; run it from a checkout as `python -m benchmarks`.

    python -m benchmarks --suite=decode --torch_python=/path/with/torch/bin/python
    python -m benchmarks --suite=overhead
    python -m benchmarks --suite=startup
    python -m benchmarks --suite=kernels --tune --output_json=kernels.json   # on a GPU
    python -m benchmarks --suite=gpu --output_json=gpu.json                  # likewise
    python -m benchmarks --suite=fleet --trace=azure_conv.csv.gz --length_scale=auto
    python -m benchmarks --suite=fidelity --trace=azure_conv.csv.gz --slice_s=600
    python -m benchmarks --suite=migration
    python -m benchmarks --suite=service --service_parts=flood --churn_minutes=10
    python -m benchmarks --suite=grammar --tokenizer=tokenizer.json
    python -m benchmarks --suite=rl --output_json=rl.json
    python -m benchmarks --suite=deterministic
    python -m benchmarks --suite=hosts --output_json=hosts.json

--suite is one of: decode (the engine, its bare step and transformers side by side),
overhead (what the host adds to a step, and where), startup (seconds until ready),
kernels (attention and page moves against what the device can do), gpu (a GPU from
launches to tokens of an 8B model, within nine minutes), fleet (a slice of a trace on
several instances under several policies), fidelity (the simulator beside the engine,
which runs at its real speed), migration (what moving requests
costs them and the others), service (what front ends cost, with an engine that only
keeps time; floods, cancels, churn), grammar (what grammars cost their rows and the
others), rl (new weights, sleep and rollouts, as a training loop has them),
deterministic (what it costs that numbers depend on nobody else), hosts (what a fleet of
many processes costs, and how soon it goes on when one is killed). Measure on an idle
machine; its load average is printed and written with the figures. `mell-bench`
measures serving.
"""

import sys
from collections.abc import Sequence

from absl import flags

from benchmarks.flags import DEVICE_SUITES, define_flags
from mell_jax.bench.command import run_command

NAME = "python -m benchmarks"


def main(argv: Sequence[str]) -> int:
    """Runs one suite; returns the exit status."""
    return run_command(
        define_flags(), argv=argv, name=NAME, about=__doc__ or "", measure=_measure
    )


def _measure(values: flags.FlagValues, command: str) -> None:
    # They import jax: slow, and needless for --help.
    if values.suite in DEVICE_SUITES:
        from benchmarks.device_suites import measure_suite  # noqa: PLC0415
    else:
        from benchmarks.suites import measure_suite  # noqa: PLC0415

    measure_suite(values, command=command)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

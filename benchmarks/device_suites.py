"""Turns flags into the suites that look at a device alone.

They need jax and flax and nothing of what a server needs, so that the Python of any
image for GPUs runs them; `suites` has the others.
"""

from absl import flags

from benchmarks.gpu.suite import GpuSettings, run_gpu
from benchmarks.kernels.suite import KernelSettings, run_kernels
from mell_jax.bench.measure import Suite, measure


def measure_suite(values: flags.FlagValues, *, command: str) -> None:
    """Runs the suite that the flags name.

    Raises:
      ValueError: a flag is out of range.
    """
    suites = {"kernels": _kernels, "gpu": _gpu}
    measure(values, command=command, settle=suites[values.suite])


def _kernels(values: flags.FlagValues) -> tuple[object, Suite]:
    settings = KernelSettings(
        backend=values.attention_backend,
        repeats=values.repeats or 7,
        parts=tuple(values.parts or KernelSettings().parts),
        tune=values.tune,
        size="tiny" if values.rehearse else "full",
        torch_python=values.torch_python,
        seed=values.seed,
    )
    return settings, lambda save: run_kernels(
        settings, progress=values.progress, save=save
    )


def _gpu(values: flags.FlagValues) -> tuple[object, Suite]:
    default = GpuSettings()
    settings = GpuSettings(
        parts=tuple(values.parts or default.parts),
        rehearse=values.rehearse,
        backend=values.attention_backend,
        seed=values.seed,
    )
    return settings, lambda save: run_gpu(settings, progress=values.progress, save=save)

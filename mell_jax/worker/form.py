"""Chooses the form of a model's matrices for the devices that multiply by them."""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from mell_jax.models.serving_form import ServingForm
from mell_jax.worker.cpu_info import cpus_in, flags_of, read_cpus
from mell_jax.worker.group import DeviceGroup

HALF_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""A CPU with one of these multiplies bfloat16 by itself."""


def choose_form(
    group: DeviceGroup, *, dtype: npt.DTypeLike, cpu: frozenset[str]
) -> ServingForm:
    """Returns the form for the devices of `group`.

    On GPUs and TPUs they stay as they are, since nothing else was measured there. So do
    weights that are cut: a part of a joined matrix would be columns of one map alone.
    XLA's products of few rows run 1.3 to 1.5 times as fast with matrices [out, in] on
    CPUs with AVX2, and 1.2 to 1.6 times as slow with AVX-512, where those of bfloat16
    gain by it: 1.1 to 1.4 times.

    Args:
      dtype: of the weights.
      cpu: the features of this machine's CPU; see `cpu_features`.
    """
    if group.size > 1 or group.devices[0].platform != "cpu":
        return ServingForm()
    is_half = np.dtype(dtype) != np.float32
    is_turned = "avx2" in cpu and (is_half or "avx512f" not in cpu)
    return ServingForm(is_joined=True, is_turned=is_turned)


def cpu_features() -> frozenset[str]:
    """Returns the features of this machine's CPUs; none where nobody tells them."""
    return shared_features(read_cpus())


def parse_features(cpuinfo: str) -> frozenset[str]:
    """Returns the features that every CPU of a `/proc/cpuinfo` has.

    >>> sorted(parse_features("flags : fpu avx2\\n\\nflags : fpu avx2 avx512f"))
    ['avx2', 'fpu']
    """
    return shared_features(cpus_in(cpuinfo))


def shared_features(cpus: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """Returns the features that all CPUs have that tell some."""
    each = [frozenset(flags) for flags in map(flags_of, cpus) if flags]
    return frozenset.intersection(*each) if each else frozenset()

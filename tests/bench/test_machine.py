import dataclasses

import pytest

from mell_jax.bench.machine import features_in, look_around


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        ({"flags": "fpu sse2 avx2 fma avx512f amx_bf16"}, "avx2 fma avx512f amx_bf16"),
        ({"Features": "fp asimd sve i8mm"}, "asimd i8mm sve"),
        ({"processor": "0"}, ""),
    ],
)
def test_simd_features_are_those_that_matter(cpuinfo, features):
    assert features_in(cpuinfo) == tuple(features.split())


def test_the_machine_is_told_with_its_features():
    machine = dataclasses.replace(look_around(), cpu_features=("avx2", "fma"))
    assert str(machine).endswith("\nCPU features: avx2 fma")


def test_features_that_nobody_tells_are_said_to_be_unknown():
    machine = dataclasses.replace(look_around(), cpu_features=())
    assert str(machine).endswith("CPU features: unknown")

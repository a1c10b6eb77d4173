"""Programs compiled for some devices run on others: equal answers, nothing compiled."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mell_jax.worker.compilation import CompilationCounter
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.rebind import rebind, rebind_programs
from tests.toy import CONFIG, toy_config, toy_worker


def group_of(*numbers: int) -> DeviceGroup:
    found = jax.devices()
    return DeviceGroup(devices=tuple(found[number] for number in numbers))


def mix(x: jax.Array, y: jax.Array, v: np.float32) -> tuple[jax.Array, jax.Array]:
    return jnp.sin(x @ y) + jnp.sort(x, axis=1) + v, y + 1


def pair_on(group: DeviceGroup) -> tuple[jax.Array, jax.Array]:
    whole: Any = group.replicated
    if group.size > 1:
        whole = NamedSharding(group.mesh, PartitionSpec(None, "tp"))
    values = np.random.default_rng(0).standard_normal((2, 16, 16)).astype(np.float32)
    x, y = (jax.device_put(value, whole) for value in values)
    return x, y


@pytest.mark.parametrize(
    ("source", "target"), [((0,), (2,)), ((0, 1), (2, 3)), ((0, 1), (3, 0))]
)
def test_a_program_answers_alike_on_other_devices(
    source: tuple[int, ...], target: tuple[int, ...]
) -> None:
    here, there = group_of(*source), group_of(*target)
    mix_anew = functools.partial(mix)  # JAX keeps what it compiled, by function
    jitted = jax.jit(mix_anew, donate_argnums=1)
    compiled = jitted.lower(*pair_on(here), np.float32(0)).compile()
    counter = CompilationCounter()
    moved = rebind(compiled, source=here, target=there)
    x, y = pair_on(there)
    got = moved(x, y, np.float32(3.0))
    assert counter.count == 0
    assert y.is_deleted()  # donated, as it was
    for one in got:
        assert one.devices() == set(there.devices)
    want = compiled(*pair_on(here), np.float32(3.0))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def worker_on(*numbers: int, kv_heads: int = 2) -> DeviceWorker:
    config = toy_config(heads=4, kv_heads=kv_heads) if len(numbers) > 1 else CONFIG
    return toy_worker(
        config,
        num_pages=17,
        max_rows=4,
        token_budget=32,
        max_tokens=64,
        devices=group_of(*numbers).devices,
    )


@pytest.mark.parametrize(("first", "other"), [((0,), (3,)), ((0, 1), (2, 3))])
def test_a_worker_takes_over_what_another_compiled(
    first: tuple[int, ...], other: tuple[int, ...]
) -> None:
    warm, cold = worker_on(*first), worker_on(*other)
    warm.prepare(progress=False)
    counter = CompilationCounter()
    cold.prepare(progress=False, like=warm)
    for worker in (warm, cold):
        worker.rehearse()
    assert counter.count == 0
    tokens = [worker.probe().tokens().tolist() for worker in (warm, cold)]
    assert tokens[0] == tokens[1]


def test_what_cannot_be_taken_over_is_compiled() -> None:
    warm, cold = worker_on(0), worker_on(1, 2)
    warm.prepare(progress=False)
    programs = warm._programs
    source, target = warm.group, cold.group
    assert rebind_programs(programs, source=source, target=target) is None
    assert rebind_programs(programs, source=source, target=source) is programs
    jitted = cold._programs  # has nothing of what JAX compiled
    assert rebind_programs(jitted, source=source, target=group_of(3)) is None
    cold.prepare(progress=False, like=warm)
    assert cold.probe().tokens() is not None

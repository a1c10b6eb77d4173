"""Device groups of a host have the names that the fleet gives them."""

from typing import Any

import pytest

from mell_jax.engine.hosts.named_pool import NamedPool
from mell_jax.scheduler.ids import DeviceGroupId, ModelId

A, B, C = (DeviceGroupId(number) for number in (70, 80, 90))
MODEL = ModelId("demo")


class Pool:
    """Three groups, by numbers from 0; see `InstancePool`."""

    def __init__(self) -> None:
        self.devices = {DeviceGroupId(n): f"group {n}" for n in range(3)}
        self.opened: list[int] = []

    def open(self, device: DeviceGroupId, model: ModelId) -> Any:
        self.opened.append(device)
        return f"{model} on {device}"

    def close(self, device: DeviceGroupId) -> None:
        self.opened.remove(device)

    def held(self, model: ModelId) -> dict[DeviceGroupId, str]:
        return {number: f"weights {number}" for number in self.devices}


def named(*names: DeviceGroupId) -> tuple[NamedPool, Pool]:
    pool: Any = Pool()
    found = NamedPool(pool)
    found.name(names)
    return found, pool


def test_groups_are_found_by_their_names() -> None:
    found, pool = named(A, B, C)
    assert found.devices == {A: "group 0", B: "group 1", C: "group 2"}
    assert found.held(MODEL) == {A: "weights 0", B: "weights 1", C: "weights 2"}
    assert found.open(B, MODEL) == "demo on 1"
    assert pool.opened == [1]
    found.close(B)
    assert pool.opened == []


def test_groups_are_named_anew_without_those_that_have_failed() -> None:
    found, _ = named(A, B, C)
    found.lose(B)
    assert found.num_groups == 2
    found.name([DeviceGroupId(100), DeviceGroupId(101)])
    assert found.devices == {100: "group 0", 101: "group 2"}
    with pytest.raises(KeyError):
        found.open(A, MODEL)


def test_a_host_that_is_fenced_has_no_groups() -> None:
    found, _ = named()
    assert found.devices == {}
    assert found.held(MODEL) == {}
    assert found.num_groups == 3

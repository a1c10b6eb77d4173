"""Pages moved by a collective arrive whole, where and as they should."""

import jax
import numpy as np
import pytest

from mell_jax.engine.fleet import page_transfer
from mell_jax.engine.fleet.permute import Permute
from mell_jax.engine.fleet.transport import DevicePut
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.compilation import CompilationCounter
from mell_jax.worker.group import DeviceGroup
from tests.engine.fleet.toy_fleet import toy_page
from tests.toy import toy_config, toy_worker

MODEL = toy_config(heads=4, kv_heads=2)
ZERO, ONE = DeviceGroupId(0), DeviceGroupId(1)


def groups(*ids: list[int]) -> dict[DeviceGroupId, DeviceGroup]:
    found = jax.devices()
    return {
        DeviceGroupId(n): DeviceGroup.of_model(MODEL, devices=[found[i] for i in group])
        for n, group in enumerate(ids)
    }


def worker_of(group: DeviceGroup):
    return toy_worker(
        MODEL,
        num_pages=65,
        max_rows=8,
        token_budget=64,
        max_tokens=128,
        devices=group.devices,
    )


@pytest.mark.parametrize(
    "ends",
    [([0], [1]), ([5], [2]), ([0, 1], [2, 3]), ([0, 1, 2, 3], [4, 5, 6, 7])],
    ids=["tp1", "backwards", "tp2", "tp2 in two copies"],
)
def test_a_transfer_arrives_as_by_device_put(ends) -> None:
    both = groups(*ends)
    transport = Permute(both, page=toy_page(MODEL))
    assert transport.pairs == {(0, 1), (1, 0)}
    source, target = (worker_of(group) for group in both.values())
    values = np.random.default_rng(0).normal(size=source.pool.shape)
    source.replace_pool(lambda pool: jax.numpy.asarray(values, pool.dtype))
    pages = np.array([5, 9, 2, 7, 1, *range(20, 37)], np.int32)  # 16 + 4 + 1 + 1
    for worker in (source, target):
        page_transfer.warm_up(worker)
    packed = page_transfer.pack(source, pages)
    compilations = CompilationCounter()
    one = transport.carry(packed, source=ZERO, target=ONE, to=both[ONE])
    assert compilations.count == 0
    other = DevicePut().carry(packed, source=ZERO, target=ONE, to=both[ONE])
    for chunk, like in zip(one.chunks, other.chunks, strict=True):
        assert chunk.sharding == like.sharding
        np.testing.assert_array_equal(chunk, like)
    page_transfer.unpack(target, one, pages[::-1].copy())
    np.testing.assert_array_equal(
        np.asarray(target.pool)[pages[::-1]], np.asarray(source.pool)[pages]
    )
    assert not np.asarray(target.pool)[0].any()


def test_pages_are_gathered_as_the_pool_is_cut() -> None:
    group = groups([0, 1])[ZERO]
    chunk = page_transfer.pack(worker_of(group), np.array([3], np.int32)).chunks[0]
    assert chunk.sharding == group.pool_sharding


def test_groups_that_share_devices_or_differ_go_by_device_put() -> None:
    ends = groups([0], [0], [1, 2], [3])
    transport = Permute(ends, page=toy_page(MODEL))
    assert transport.pairs == {(0, 3), (3, 0), (1, 3), (3, 1)}
    transfer = page_transfer.pack(worker_of(ends[ZERO]), np.array([3], np.int32))
    cut = transport.carry(
        transfer, source=ZERO, target=DeviceGroupId(2), to=ends[DeviceGroupId(2)]
    )
    assert cut.chunks[0].sharding == ends[DeviceGroupId(2)].pool_sharding

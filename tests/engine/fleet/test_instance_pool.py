"""What parked instances give back, and what they still have when they open again."""

import jax.numpy as jnp
import pytest

from mell_jax.engine.fleet.config import Parking
from mell_jax.engine.fleet.instance_pool import DeviceInstancePool, ParkedInstance
from mell_jax.engine.instance import Instance
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.plan import BatchLimits
from mell_jax.scheduler.prefix_cache import PrefixCache
from mell_jax.worker.device import DeviceWorker
from tests.toy import PAGE_TOKENS, expected, generate_by_hand, toy_worker

HERE = DeviceGroupId(0)
PLAIN, TRIPLE = ModelId("plain"), ModelId("triple")


def new_batcher() -> Batcher:
    return Batcher(
        PrefixCache(PagePool(65)),
        limits=BatchLimits(max_rows=8, token_budget=64, max_tokens=128),
        spec=CacheSpec(page_tokens=PAGE_TOKENS),
    )


def pool_of(
    parking: Parking,
) -> tuple[DeviceInstancePool, dict[ModelId, DeviceWorker]]:
    """Two toys on one device group, both parked."""
    workers = {
        model: toy_worker(
            num_pages=65, max_rows=8, token_budget=64, max_tokens=128, factor=factor
        )
        for model, factor in ((PLAIN, 1), (TRIPLE, 3))
    }
    for worker in workers.values():
        worker.park(keeps_weights=parking == "pool")
    parked = {
        (HERE, model): ParkedInstance(
            worker=worker, make_batcher=new_batcher, max_rows=8, shares_prefixes=True
        )
        for model, worker in workers.items()
    }
    return DeviceInstancePool(parked, parking=parking), workers


def answer(instance: Instance) -> list[int]:
    """What an instance says to 1 2 3."""
    params = SamplingParams(temperature=0.0, max_tokens=6)
    return generate_by_hand(instance, [1, 2, 3], params=params)


def weight_homes(worker: DeviceWorker) -> set[str | None]:
    return {weight.sharding.memory_kind for weight in worker.held.arrays}


@pytest.mark.parametrize("parking", ["pool", "weights"])
def test_models_take_turns_on_a_device_and_keep_their_answers(parking: Parking) -> None:
    pool, _ = pool_of(parking)
    for _ in range(2):
        for model, factor in ((PLAIN, 1), (TRIPLE, 3)):
            instance = pool.open(HERE, model)
            instance.worker.wait_ready()
            assert instance.worker.is_ready
            assert not jnp.any(instance.worker.pool)
            assert answer(instance) == expected([1, 2, 3], count=6, factor=factor)
            pool.close(HERE)


def test_a_parked_instance_gives_its_pool_back() -> None:
    pool, workers = pool_of("pool")
    pool.open(HERE, PLAIN)
    pages = workers[PLAIN].pool
    pool.close(HERE)
    assert pages.is_deleted()
    assert weight_homes(workers[PLAIN]) == {"device"}


def test_parked_weights_wait_in_the_memory_of_the_host() -> None:
    pool, workers = pool_of("weights")
    assert weight_homes(workers[PLAIN]) == {"pinned_host"}
    pool.open(HERE, PLAIN)
    assert weight_homes(workers[PLAIN]) == {"device"}
    assert weight_homes(workers[TRIPLE]) == {"pinned_host"}
    pool.close(HERE)
    assert weight_homes(workers[PLAIN]) == {"pinned_host"}


def test_one_instance_at_a_time_is_open_on_a_device() -> None:
    pool, _ = pool_of("pool")
    pool.open(HERE, PLAIN)
    with pytest.raises(AssertionError, match="device 0 is open already"):
        pool.open(HERE, TRIPLE)

"""Which devices instances get, and how several of one model are made."""

import jax
import numpy as np
import pytest

from mell_jax.checkpoints import load_model, read_spec
from mell_jax.engine.blueprint import (
    choose_groups,
    make_batcher,
    make_blueprint,
    make_worker,
    settle_on,
)
from mell_jax.engine.build import demo_directory
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.instance import Instance
from mell_jax.engine.params import SamplingParams
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.pool import free_bytes
from mell_jax.worker.step import put_weights, split_model
from tests.parity.tiny_models import families, load_golden, prompt, write_hf
from tests.toy import generate_by_hand, toy_config

MODEL = toy_config(heads=4, kv_heads=4)


def chosen_ids(**options) -> list[tuple[int, ...]]:
    groups = choose_groups(EngineConfig(**options), model=MODEL)
    return [tuple(device.id for device in group.devices) for group in groups]


def test_instances_take_the_first_devices_in_turn() -> None:
    assert chosen_ids() == [(0,)]
    assert chosen_ids(instances=3) == [(0,), (1,), (2,)]
    assert chosen_ids(instances=2, tensor_parallel=4) == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_devices_can_be_chosen_and_shared() -> None:
    options = {"instances": 2, "tensor_parallel": 2}
    assert chosen_ids(**options, device_ids=(7, 5, 0, 1)) == [(7, 5), (0, 1)]
    assert chosen_ids(**options, device_ids=(2, 3, 2, 3)) == [(2, 3), (2, 3)]
    assert chosen_ids(instances=3, device_ids=(4, 4, 4)) == [(4,), (4,), (4,)]


def test_devices_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="mesh of 3x4 uses device 11, but jax finds 8"):
        chosen_ids(instances=3, tensor_parallel=4)
    with pytest.raises(ValueError, match="mesh of 1x1 uses device 8"):
        chosen_ids(device_ids=(8,))


def test_instances_that_share_memory_share_what_is_free() -> None:
    spec = read_spec(demo_directory())
    page_bytes = 4 * 2 * 2 * 16 * 64 * 4  # L, keys and values, K, S, H, float32
    groups = choose_groups(EngineConfig(), model=spec.config)
    # What is free holds some 40 pages: 640 tokens of one instance.
    share = 40 * page_bytes / free_bytes(groups[0])
    config = EngineConfig(kv_memory_fraction=share)
    alone = settle_on(config, spec=spec, groups=groups).max_model_len
    shared = settle_on(config, spec=spec, groups=groups * 4).max_model_len
    assert 2 < alone / shared < 8


@pytest.fixture(scope="module")
def instances(tmp_path_factory) -> tuple[list[DeviceWorker], list[Instance]]:
    """Two of a tiny model on one device."""
    directory = tmp_path_factory.mktemp("llama2")
    write_hf(directory, families()["llama2"])
    config = EngineConfig(
        instances=2,
        device_ids=(3, 3),
        max_rows=4,
        decode_rows=(4,),
        token_budget=48,
        max_model_len=400,
        kv_pages=60,
    )
    spec = read_spec(directory)
    groups = choose_groups(config, model=spec.config)
    settled = settle_on(config, spec=spec, groups=groups)
    model = load_model(
        directory, dtype=settled.dtype, sharding_for=groups[0].weight_sharding
    )
    parts, first = split_model(model.graphdef, model.state)
    weights = [put_weights(first, paths=parts.paths, group=group) for group in groups]
    blueprint = make_blueprint(
        parts, spec=spec, config=config, name="tiny", groups=groups
    )
    workers = [
        make_worker(blueprint, group=group, weights=arrays)
        for group, arrays in zip(groups, weights, strict=True)
    ]
    for worker in workers:
        worker.warm_up(progress=False)
    return workers, [
        Instance(worker, make_batcher(blueprint), max_rows=4) for worker in workers
    ]


def test_instances_of_a_model_have_pools_of_their_own(instances) -> None:
    one, two = instances[0]
    assert one.pool.devices() == two.pool.devices() == {jax.devices()[3]}
    assert one.pool.unsafe_buffer_pointer() != two.pool.unsafe_buffer_pointer()
    two.replace_pool(lambda pool: pool.at[:].set(np.float32("nan")))
    assert np.isfinite(one.pool).all()
    two.replace_pool(lambda pool: pool.at[:].set(0.0))


def test_instances_on_one_device_share_its_weights(instances) -> None:
    one, two = (worker.held.arrays for worker in instances[0])
    for mine, theirs in zip(one, two, strict=True):
        assert mine.unsafe_buffer_pointer() == theirs.unsafe_buffer_pointer()


def test_each_instance_says_what_the_model_says(instances) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=256)
    for instance in instances[1]:
        answer = generate_by_hand(instance, prompt(33), params=params)
        assert answer == load_golden("llama2").greedy[33].tolist()

"""Streams are the same whichever way their requests move, and whatever goes wrong."""

import math

import numpy as np
import pytest

from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.profile import Profile
from mell_jax.engine.fleet_view import MoveOutcome
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement import events
from mell_jax.scheduler.transfer import Mode
from tests.engine.fleet.toy_fleet import PAGE_BYTES, TOY, toy_fleet
from tests.toy import Transcript, expected, submit, toy_config

PROMPTS = [[n + 1] * (n * 7 + 1) for n in range(14)]
ALWAYS = Fault(move_every=1)
MODEL = toy_config(heads=2, kv_heads=2)
SEPARATE = [[0], [1]]  # steps are compiled for each group: few groups, quick tests


def run(fleet: Fleet, *, count: int = 20) -> Transcript:
    params = SamplingParams(temperature=0.0, max_tokens=count)
    for handle, prompt in enumerate(PROMPTS):
        submit(fleet, prompt, handle=handle, params=params)
    seen = Transcript()
    for _ in range(2000):
        seen.read(fleet.step())
        fleet.machine.ledger.check()
        if not fleet.has_work and len(seen.finished) == len(PROMPTS):
            break
    assert fleet.conductor.is_at_rest
    assert not fleet.machine.ledger.requests and not fleet.machine.ledger.moves
    assert fleet.conductor.tally.under_way == 0
    for instance in fleet.instances.values():
        assert instance.inner.batcher.cache.counts.used == 0
    return seen


def assert_right(seen: Transcript, *, count: int = 20) -> None:
    assert seen.tokens == {
        handle: expected(prompt, count=count) for handle, prompt in enumerate(PROMPTS)
    }


def narrow(devices: int) -> Profile:
    """Links of 20 pages and prefill of 100 tokens a second."""
    ids = [DeviceGroupId(n) for n in range(devices)]
    return Profile(
        bytes_per_s={(a, b): 20.0 * PAGE_BYTES for a in ids for b in ids if a != b},
        prefill_tokens_per_s={(device, TOY): 100.0 for device in ids},
    )


@pytest.mark.parametrize(
    ("transport", "mode"),
    [("device_put", Mode.KV), ("permute", Mode.KV), ("device_put", Mode.TOKENS)],
)
def test_every_way_between_separate_devices_is_right(transport, mode) -> None:
    fleet = toy_fleet(
        groups=SEPARATE,
        model=MODEL,
        config=FleetConfig(transport=transport, mode=mode, fault=ALWAYS),
    )
    assert_right(run(fleet))
    stats = fleet.stats()
    assert set(stats.begun) == {mode}
    assert stats.count(MoveOutcome.COMMITTED) >= 15
    assert stats.sent_bytes > 0


@pytest.mark.parametrize("transport", ["device_put", "permute"])
def test_ways_mixed_by_the_planner_are_right(transport) -> None:
    fleet = toy_fleet(
        groups=SEPARATE,
        model=MODEL,
        config=FleetConfig(transport=transport, fault=ALWAYS),
        profile=narrow(2),
    )
    assert_right(run(fleet))
    stats = fleet.stats()
    assert min(stats.begun[Mode.KV], stats.begun[Mode.TOKENS]) >= 1
    assert stats.deferred >= 1


@pytest.mark.parametrize(
    ("transport", "groups"),
    [
        ("device_put", [[2, 3], [0]]),
        ("device_put", [[2, 3], [4, 5]]),
        ("permute", [[2, 3], [0]]),
        ("permute", [[2, 3], [4, 5]]),
    ],
)
def test_moves_between_tensor_parallel_layouts_are_right(transport, groups) -> None:
    fleet = toy_fleet(
        groups=groups,
        model=MODEL,
        config=FleetConfig(transport=transport, fault=ALWAYS),
    )
    assert_right(run(fleet))
    assert fleet.stats().count(MoveOutcome.COMMITTED) >= 15


def test_seeded_samples_are_the_same_whatever_the_way() -> None:
    params = SamplingParams(temperature=1.3, top_p=0.9, max_tokens=24, logprobs=3)

    def streams(fleet: Fleet) -> Transcript:
        for handle, prompt in enumerate(PROMPTS[:10]):
            submit(fleet, prompt, handle=handle, params=params, seed=handle)
        seen = Transcript()
        while fleet.has_work:
            seen.read(fleet.step())
        return seen

    still = streams(toy_fleet(groups=[[0]], model=MODEL, rows=16))
    for transport in ("device_put", "permute"):
        config = FleetConfig(transport=transport, fault=ALWAYS)
        moved = streams(
            toy_fleet(groups=SEPARATE, model=MODEL, config=config, profile=narrow(2))
        )
        assert moved.tokens == still.tokens
        for handle, rows in still.logprobs.items():
            for one, other in zip(rows, moved.logprobs[handle], strict=True):
                assert one[1] == other[1]
                np.testing.assert_allclose(
                    [one[0], *one[2]], [other[0], *other[2]], atol=1e-5
                )


def test_a_flipped_byte_is_noticed_and_the_pair_goes_by_the_host(caplog) -> None:
    fault = Fault(move_every=1, flip=1)
    fleet = toy_fleet(groups=SEPARATE, model=MODEL, config=FleetConfig(fault=fault))
    assert_right(run(fleet))
    assert "other bits at its destination" in caplog.text


def test_a_hung_transfer_is_called_off_and_its_request_goes_on(caplog) -> None:
    fault = Fault(move_every=3, hang=2)
    config = FleetConfig(fault=fault, patience_epochs=2)
    fleet = toy_fleet(groups=SEPARATE, model=MODEL, config=config)
    assert_right(run(fleet))
    assert fleet.stats().count(MoveOutcome.ABORTED) >= 1
    assert "have not arrived in 2 epochs" in caplog.text


@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_planted_error_fences_its_device_alone(step: int) -> None:
    fault = Fault(move_every=2, raise_on=(DeviceGroupId(0), step))
    fleet = toy_fleet(groups=SEPARATE, model=MODEL, config=FleetConfig(fault=fault))
    assert_right(run(fleet))
    assert 0 not in fleet.instances
    assert fleet.stats().replays >= 1


def test_a_moved_request_misses_one_step_at_most() -> None:
    fleet = toy_fleet(
        groups=SEPARATE, model=MODEL, config=FleetConfig(fault=Fault(move_every=6))
    )
    assert_right(run(fleet, count=36), count=36)
    stats = fleet.stats()
    assert stats.gap_steps.count >= 10
    assert stats.gap_steps.quantile(0.99) <= 2
    assert 0 < stats.gap_s.total < math.inf


def test_pages_that_the_target_has_are_not_sent() -> None:
    def bytes_of_a_move(prompt_there: list[int]) -> int:
        fleet = toy_fleet(devices=2, policy="best_fit", rows=2)
        params = SamplingParams(temperature=0.0, max_tokens=60)
        for handle, prompt in enumerate([[*range(1, 50)], [3] * 20, prompt_there]):
            submit(fleet, prompt, handle=handle, params=params)
        for _ in range(4):
            fleet.step()
        conductor, ledger = fleet.conductor, fleet.machine.ledger
        places = [ledger.requests[conductor.requests[n]].device for n in range(3)]
        assert places == [0, 0, 1]
        conductor.decide(
            events.Relocate(request=conductor.requests[0], device=DeviceGroupId(1))
        )
        for _ in range(6):
            fleet.step()
        assert fleet.stats().count(MoveOutcome.COMMITTED) == 1
        return fleet.stats().sent_bytes

    all_pages, other_pages = bytes_of_a_move([9] * 49), bytes_of_a_move([*range(1, 50)])
    assert all_pages == 4 * PAGE_BYTES
    assert other_pages == PAGE_BYTES

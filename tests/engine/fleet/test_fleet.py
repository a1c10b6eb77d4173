"""Streams on a fleet are those of one instance, wherever their requests go."""

import numpy as np
import pytest

from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import Abort, FinishReason, Handle
from mell_jax.engine.instance import Instance
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.transfer import Mode
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import Transcript, expected, submit


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens)


def run(fleet: Fleet, *, steps: int = 5000) -> Transcript:
    seen = Transcript()
    for _ in range(steps):
        seen.read(fleet.step())
        fleet.machine.ledger.check()
        if not fleet.has_work:
            break
    return seen


def assert_at_rest(fleet: Fleet) -> None:
    assert fleet.conductor.is_at_rest
    assert not fleet.machine.ledger.requests and not fleet.machine.ledger.moves
    assert not fleet.conductor.controller.owners
    for instance in fleet.instances.values():
        assert not instance.requests
        counts = instance.inner.batcher.cache.counts
        assert counts.used == 0, f"pages leaked on {instance.device}"


PROMPTS = [[n + 1] * (n * 7 + 1) for n in range(14)]


def test_every_stream_is_right_without_moves() -> None:
    fleet = toy_fleet()
    for handle, prompt in enumerate(PROMPTS):
        submit(fleet, prompt, handle=handle, params=greedy(20))
    seen = run(fleet)
    assert seen.tokens == {
        handle: expected(prompt, count=20) for handle, prompt in enumerate(PROMPTS)
    }
    assert_at_rest(fleet)


@pytest.mark.parametrize("mode", [Mode.KV, Mode.TOKENS])
def test_every_stream_is_right_when_everything_moves_at_every_step(mode: Mode) -> None:
    fleet = toy_fleet(config=FleetConfig(mode=mode, fault=Fault(move_every=1)))
    for handle, prompt in enumerate(PROMPTS):
        submit(fleet, prompt, handle=handle, params=greedy(20))
    seen = run(fleet)
    assert seen.tokens == {
        handle: expected(prompt, count=20) for handle, prompt in enumerate(PROMPTS)
    }
    assert_at_rest(fleet)


@pytest.mark.parametrize("policy", ["best_fit", "consolidate", "load_balance", "mell"])
def test_streams_are_right_where_pages_are_short(policy: str) -> None:
    fleet = toy_fleet(devices=3, num_pages=12, policy=policy)
    prompts = [[n % 90 + 1] * (n * 5 % 60 + 1) for n in range(24)]
    for handle, prompt in enumerate(prompts):
        submit(fleet, prompt, handle=handle, params=greedy(50))
    seen = run(fleet)
    assert seen.tokens == {
        handle: expected(prompt, count=50) for handle, prompt in enumerate(prompts)
    }
    assert_at_rest(fleet)


@pytest.mark.parametrize("mode", [Mode.KV, Mode.TOKENS])
def test_seeded_samples_and_logprobs_do_not_depend_on_moves(mode: Mode) -> None:
    params = SamplingParams(
        temperature=1.3, top_p=0.9, max_tokens=24, logprobs=3, presence_penalty=0.5
    )

    def streams(fleet: Fleet) -> Transcript:
        for handle, prompt in enumerate(PROMPTS[:10]):
            submit(fleet, prompt, handle=handle, params=params, seed=handle)
        return run(fleet)

    still = streams(toy_fleet(devices=1, rows=16))
    moved = streams(toy_fleet(config=FleetConfig(mode=mode, fault=Fault(move_every=1))))
    assert moved.tokens == still.tokens
    for handle, rows in still.logprobs.items():
        for (chosen, ids, top), other in zip(rows, moved.logprobs[handle], strict=True):
            assert ids == other[1]
            np.testing.assert_allclose([chosen, *top], [other[0], *other[2]], atol=1e-5)


def test_aborts_free_everything_wherever_a_move_is() -> None:
    for after in range(1, 12):
        fleet = toy_fleet(config=FleetConfig(fault=Fault(move_every=1)))
        for handle, prompt in enumerate(PROMPTS):
            submit(fleet, prompt, handle=handle, params=greedy(30))
        seen = Transcript()
        for _ in range(after):
            seen.read(fleet.step())
        fleet.abort(Abort(handles=tuple(Handle(n) for n in range(0, 14, 2))))
        for _ in range(300):
            seen.read(fleet.step())
        for handle in range(1, 14, 2):
            assert seen.tokens[handle] == expected(PROMPTS[handle], count=30)
        assert_at_rest(fleet)


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("moves", [False, True])
def test_streams_go_on_when_a_device_fails(at: int, moves: bool) -> None:
    fleet = toy_fleet(config=FleetConfig(fault=Fault(move_every=1 if moves else None)))
    for handle, prompt in enumerate(PROMPTS):
        submit(fleet, prompt, handle=handle, params=greedy(30))
    seen = Transcript()
    for _ in range(at):
        seen.read(fleet.step())
    victim = next(iter(fleet.instances.values()))

    def fail() -> None:
        raise RuntimeError("planted")

    victim.inner.launch = fail  # type: ignore[method-assign]
    for _ in range(600):
        seen.read(fleet.step())
        fleet.machine.ledger.check()
    assert victim.device not in fleet.instances
    assert seen.tokens == {
        handle: expected(prompt, count=30) for handle, prompt in enumerate(PROMPTS)
    }
    assert_at_rest(fleet)


def test_a_request_that_loses_too_many_devices_fails_alone() -> None:
    fleet = toy_fleet(devices=2, config=FleetConfig(replay_limit=0))
    submit(fleet, [1, 2], handle=0, params=greedy(30))
    seen = Transcript()
    for _ in range(4):
        seen.read(fleet.step())

    def fail() -> None:
        raise RuntimeError("planted")

    next(iter(fleet.instances.values())).inner.launch = fail
    seen.read(fleet.step())
    assert seen.finished[0].reason is FinishReason.ERROR
    assert "lost with its device" in seen.finished[0].message
    submit(fleet, [3], handle=1, params=greedy(3))
    seen = run(fleet)
    assert seen.tokens[1] == expected([3], count=3)


def test_an_idle_fleet_parks_all_but_its_last_instance() -> None:
    fleet = toy_fleet(devices=3, num_pages=12)
    for handle in range(12):
        submit(fleet, [handle + 1] * 40, handle=handle, params=greedy(40))
    run(fleet)
    for _ in range(20):
        fleet.step()
    assert len(fleet.instances) == 1
    submit(fleet, [7], handle=99, params=greedy(5))
    seen = run(fleet)
    assert seen.tokens[99] == expected([7], count=5)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("devices", [1, 2])
def test_a_prompt_asked_again_is_found_though_the_fleet_was_idle(
    devices: int, policy: str
) -> None:
    fleet = toy_fleet(devices=devices, policy=policy, max_tokens=256)
    prompt = [n % 7 for n in range(200)]
    cached = []
    for handle in range(4):
        submit(fleet, prompt, handle=handle, params=greedy(8))
        seen = run(fleet)
        assert seen.tokens[handle] == expected(prompt, count=8)
        cached.append(seen.prompts[handle].cached_tokens)
        for _ in range(12):
            fleet.step()  # epochs without work
    assert cached == [0, 192, 192, 192]
    assert fleet.stats().parkings == 0


def test_a_prompt_goes_where_its_prefix_is() -> None:
    fleet = toy_fleet(devices=2, num_pages=13, growth=0.0)
    common = list(range(1, 70))  # 5 pages
    submit(fleet, common, handle=0, params=greedy(10))
    submit(fleet, [60] * 120, handle=1, params=greedy(8))  # 8 pages: fuller
    seen = Transcript()
    for _ in range(6):
        seen.read(fleet.step())
    submit(fleet, common[:50], handle=2, params=greedy(4))
    while 2 not in seen.finished:
        seen.read(fleet.step())
    assert seen.prompts[2].cached_tokens == 48


def test_a_fleet_without_devices_says_so() -> None:
    fleet = toy_fleet(devices=1)
    submit(fleet, [1, 2], handle=0, params=greedy(30))
    fleet.step()

    def fail() -> None:
        raise RuntimeError("planted")

    next(iter(fleet.instances.values())).inner.launch = fail
    with pytest.raises(RuntimeError, match="every device of the fleet has failed"):
        fleet.step()


def test_a_device_that_cannot_be_opened_is_left_out(monkeypatch) -> None:
    fleet = toy_fleet(devices=3)
    instance_pool = fleet.instance_pool
    opened = instance_pool.open

    def fail_on_the_first(device: DeviceGroupId, model: ModelId) -> Instance:
        if device == 0:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return opened(device, model)

    monkeypatch.setattr(instance_pool, "open", fail_on_the_first)
    for handle, prompt in enumerate(PROMPTS):
        submit(fleet, prompt, handle=handle, params=greedy(20))
    seen = run(fleet)
    assert seen.tokens == {
        handle: expected(prompt, count=20) for handle, prompt in enumerate(PROMPTS)
    }
    assert fleet.conductor.roster.lost == {0}
    assert_at_rest(fleet)


def test_an_arrival_waits_a_little_before_a_device_is_opened_for_it() -> None:
    def activations(place_wait_s: float, *, first: int) -> list[int]:
        """After the second arrival and every step of 0.25 s or, with a look, 0.5 s."""
        fleet = toy_fleet(devices=2, num_pages=12, place_wait_s=place_wait_s)
        submit(fleet, [1] * 100, handle=0, params=greedy(first))
        seen = Transcript()
        seen.read(fleet.step())
        submit(fleet, [2] * 100, handle=1, params=greedy(5))
        counts = [fleet.stats().activations]
        for _ in range(8):
            seen.read(fleet.step())
            counts.append(fleet.stats().activations)
        seen.tokens |= run(fleet).tokens
        assert fleet.stats().activations == counts[-1]
        assert_at_rest(fleet)
        return counts

    assert activations(0.0, first=25)[0] == 2
    waited = activations(1.0, first=25)
    assert waited[:2] == [1, 1] and waited[4:] == [2] * 5
    assert activations(9.0, first=4)[-1] == 1  # it takes the place of one that ends

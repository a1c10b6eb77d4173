"""A request that has moved, or was lost with its device, is what it was before."""

import numpy as np
import pytest

from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import FinishReason, Logprobs
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement import events
from mell_jax.scheduler.transfer import Mode
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import Transcript, expected, submit

GREEDY = SamplingParams(temperature=0.0, max_tokens=20)
PROMPT = [n % 7 for n in range(70)]  # 4 full pages


def run(fleet: Fleet, *, seen: Transcript | None = None) -> Transcript:
    seen = seen or Transcript()
    while fleet.has_work:
        seen.read(fleet.step())
        fleet.machine.ledger.check()
    return seen


def fail_next_step(fleet: Fleet) -> DeviceGroupId:
    """Has the device of the only request raise; returns it."""
    (request,) = fleet.conductor.requests.values()
    home = fleet.conductor.controller.owners[request].home
    assert home is not None

    def fail() -> None:
        raise RuntimeError("planted")

    fleet.instances[home].inner.launch = fail  # type: ignore[method-assign]
    return home


def cached_for(fleet: Fleet, *, salt: bytes, handle: int) -> int:
    """Tokens of the prompt that a caller of `salt` finds in the prefix cache."""
    submit(fleet, PROMPT, handle=handle, params=GREEDY, salt=salt)
    seen = run(fleet)
    assert seen.tokens[handle] == expected(PROMPT, count=20)
    return seen.prompts[handle].cached_tokens


@pytest.mark.parametrize("mode", [Mode.KV, Mode.TOKENS])
def test_pages_that_moved_are_found_by_their_tenant_alone(mode: Mode) -> None:
    fleet = toy_fleet(devices=2, config=FleetConfig(mode=mode))
    submit(fleet, PROMPT, handle=0, params=GREEDY, salt=b"tenant")
    seen = Transcript()
    while 0 not in seen.tokens:
        seen.read(fleet.step())
    first = next(iter(fleet.instances))
    fleet.conductor.decide(events.DeviceRemoved(device=first))  # it moves to the other
    run(fleet, seen=seen)
    assert seen.tokens[0] == expected(PROMPT, count=20)
    assert set(fleet.instances) == {1 - first}
    assert cached_for(fleet, salt=b"", handle=1) == 0
    assert cached_for(fleet, salt=b"other", handle=2) == 0
    assert cached_for(fleet, salt=b"tenant", handle=3) == 64


def test_pages_of_a_replay_are_found_by_their_tenant_alone() -> None:
    fleet = toy_fleet(devices=2)
    submit(fleet, PROMPT, handle=0, params=GREEDY, salt=b"tenant")
    seen = Transcript()
    while 0 not in seen.tokens:
        seen.read(fleet.step())
    lost = fail_next_step(fleet)
    run(fleet, seen=seen)
    assert seen.tokens[0] == expected(PROMPT, count=20)
    assert lost not in fleet.instances
    assert cached_for(fleet, salt=b"", handle=1) == 0
    assert cached_for(fleet, salt=b"other", handle=2) == 0
    assert cached_for(fleet, salt=b"tenant", handle=3) == 64


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_request_survives_as_many_losses_as_the_limit_says(limit: int) -> None:
    fleet = toy_fleet(devices=limit + 2, config=FleetConfig(replay_limit=limit))
    submit(fleet, [1, 2], handle=0, params=GREEDY)
    seen = Transcript()
    for losses in range(limit + 1):
        count = losses + 1
        while len(seen.tokens.get(0, ())) < count:
            assert not seen.finished, f"{losses} losses are few enough"
            seen.read(fleet.step())
        fail_next_step(fleet)
        seen.read(fleet.step())
    assert seen.finished[0].reason is FinishReason.ERROR
    assert seen.finished[0].message == f"lost with its device {limit + 1} times"
    assert fleet.stats().replays == limit + 1


def prompt_logprobs(fleet: Fleet, prompts: list[list[int]]) -> dict[int, Logprobs]:
    params = SamplingParams(temperature=0.0, max_tokens=12, prompt_logprobs=2)
    for handle, prompt in enumerate(prompts):
        submit(fleet, prompt, handle=handle, params=params)
    seen = run(fleet)
    assert seen.tokens == {
        handle: expected(prompt, count=12) for handle, prompt in enumerate(prompts)
    }
    answers = {}
    for handle in range(len(prompts)):
        logprobs = seen.prompts[handle].logprobs
        assert logprobs is not None, handle
        answers[handle] = logprobs
    return answers


@pytest.mark.parametrize("mode", [Mode.KV, Mode.TOKENS])
def test_log_probabilities_of_a_prompt_do_not_depend_on_moves(mode: Mode) -> None:
    # A step takes 64 tokens, so prompts take several, and everything moves at each.
    prompts = [[(n * k + 3) % 90 for k in range(10 + 9 * n)] for n in range(1, 12)]
    still = prompt_logprobs(toy_fleet(devices=1, rows=16), prompts)
    fleet = toy_fleet(config=FleetConfig(mode=mode, fault=Fault(move_every=1)))
    moved = prompt_logprobs(fleet, prompts)
    assert fleet.stats().begun[mode] > 5  # they move once their prompts are done
    for handle, there in still.items():
        here = moved[handle]
        assert len(here.chosen) == len(prompts[handle]) - 1
        np.testing.assert_array_equal(here.top_ids, there.top_ids)
        np.testing.assert_allclose(here.chosen, there.chosen, atol=1e-5)
        np.testing.assert_allclose(here.top, there.top, atol=1e-5)

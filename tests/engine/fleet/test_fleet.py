"""Streams on a fleet are those of one instance, wherever their requests go."""

import numpy as np
import pytest

from mell_jax.engine.fleet.fleet import Fleet, FleetConfig
from mell_jax.engine.params import SamplingParams
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
    assert not fleet._live and not fleet._requests and not fleet._asked
    assert not fleet.machine.ledger.requests and not fleet.machine.ledger.moves
    assert not fleet._controller.owners
    for member in fleet.members.values():
        assert not member.requests
        counts = member.instance.batcher.cache.counts
        assert counts.used == 0, f"pages leaked on {member.device}"


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
    fleet = toy_fleet(config=FleetConfig(mode=mode, move_always=True))
    for handle, prompt in enumerate(PROMPTS):
        submit(fleet, prompt, handle=handle, params=greedy(20))
    seen = run(fleet)
    assert seen.tokens == {
        handle: expected(prompt, count=20) for handle, prompt in enumerate(PROMPTS)
    }
    assert_at_rest(fleet)

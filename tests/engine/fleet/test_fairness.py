"""Tenants share a fleet: a flood of one does not hold up the others."""

import pytest

from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.params import SamplingParams
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import Transcript, expected, submit

FLOOD, LIGHT = range(64), range(100, 108)


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens)


def flood(fleet: Fleet, tenant: str = "flood") -> None:
    for handle in FLOOD:
        prompt = [handle + 1, 5]
        submit(fleet, prompt, handle=handle, params=greedy(100), tenant=tenant)


def light(fleet: Fleet, **more) -> None:
    for handle in LIGHT:
        submit(fleet, [handle - 90, 7], handle=handle, params=greedy(3), **more)


class Run:
    """Steps a fleet and notes when whose first and last token came."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.seen = Transcript()
        self.steps = 0
        self.first: dict[int, int] = {}  # step of the first token
        self.last: dict[int, int] = {}

    def step(self) -> None:
        self.steps += 1
        self.seen.read(self.fleet.step())
        self.fleet.machine.ledger.check()
        for handle in self.seen.tokens:
            self.first.setdefault(handle, self.steps)
        for handle in self.seen.finished:
            self.last.setdefault(handle, self.steps)

    def steps_of(self, count: int) -> "Run":
        for _ in range(count):
            self.step()
        return self

    def to_end(self) -> "Run":
        while self.fleet.has_work or self.fleet.machine.waiting:
            self.step()
            assert self.steps < 5000
        return self


def steps_alone() -> int:
    """Steps from the arrival of the light tenant to its last first token."""
    fleet = toy_fleet(devices=2)
    light(fleet)
    run = Run(fleet).to_end()
    return max(run.first[handle] for handle in LIGHT)


def check_streams(run: Run) -> None:
    for handle, tokens in run.seen.tokens.items():
        prompt = [handle + 1, 5] if handle in FLOOD else [handle - 90, 7]
        count = 100 if handle in FLOOD else 3
        assert tokens == expected(prompt, count=count), handle


@pytest.mark.parametrize("before", [0, 1, 50, 150])
def test_a_light_tenant_waits_at_most_twice_as_long_beside_a_flood(before: int) -> None:
    alone = Run(toy_fleet(devices=2))
    flood(alone.fleet)
    alone.to_end()
    fleet = toy_fleet(devices=2)
    flood(fleet)
    run = Run(fleet).steps_of(before)
    light(fleet, tenant="light")
    run.to_end()
    waited = max(run.first[handle] for handle in LIGHT) - before
    print(
        "FIG",
        waited,
        steps_alone(),
        run.steps,
        alone.steps,
        fleet.stats().preemptions,
        alone.fleet.stats().preemptions,
    )
    assert waited <= 2 * steps_alone()
    assert run.steps <= alone.steps + 12  # a flood loses little more than was asked for
    check_streams(run)
    assert fleet.conductor.is_at_rest

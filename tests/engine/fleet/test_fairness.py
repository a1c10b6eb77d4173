"""Tenants share a fleet: a flood of one does not hold up the others."""

import pytest

from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import Abort, FinishReason, Handle
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
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


@pytest.fixture(scope="module")
def flood_alone() -> int:
    """Steps of the flood without anybody else."""
    run = Run(toy_fleet(devices=2))
    flood(run.fleet)
    return run.to_end().steps


@pytest.mark.parametrize("before", [0, 50, 150])
def test_a_light_tenant_waits_at_most_twice_as_long_beside_a_flood(
    before: int, flood_alone: int
) -> None:
    fleet = toy_fleet(devices=2)
    flood(fleet)
    run = Run(fleet).steps_of(before)
    light(fleet, tenant="light")
    run.to_end()
    waited = max(run.first[handle] for handle in LIGHT) - before
    assert waited <= 2 * steps_alone()
    assert run.steps <= flood_alone + 12  # the flood loses what the others take
    assert fleet.stats().preemptions <= len(LIGHT)
    check_streams(run)
    assert fleet.conductor.is_at_rest


def test_as_one_tenant_the_light_ones_wait_for_the_whole_flood() -> None:
    fleet = toy_fleet(devices=2)
    flood(fleet)
    light(fleet, tenant="flood")
    run = Run(fleet).to_end()
    assert min(run.first[handle] for handle in LIGHT) > 300
    assert fleet.stats().preemptions == 0
    check_streams(run)


def test_a_light_tenant_that_asks_on_and_on_never_waits_long(flood_alone: int) -> None:
    fleet = toy_fleet(devices=2)
    flood(fleet)
    run = Run(fleet).steps_of(20)
    waits = []
    for handle in range(100, 150):
        prompt, asked = [handle - 90, 7], run.steps
        submit(fleet, prompt, handle=handle, params=greedy(3), tenant="light")
        while handle not in run.last:
            run.step()
        waits.append(run.first[handle] - asked)
    assert max(waits) <= 2 * steps_alone()
    run.to_end()
    check_streams(run)
    assert run.steps <= flood_alone + 50 * 4  # each took a row for a few steps
    assert max(run.last[handle] for handle in FLOOD) == run.steps


@pytest.mark.parametrize("devices", [1, 2])
def test_streams_are_exact_where_first_tokens_compute_alone_and_none_is_ahead(
    devices: int,
) -> None:
    fleet = toy_fleet(devices=devices, lands_for_owed=True)
    flood(fleet)
    run = Run(fleet).steps_of(30)
    assert all(each.inner.in_flight is not None for each in fleet.instances.values())
    light(fleet, tenant="light")
    is_ahead = 0
    while not all(handle in run.last for handle in LIGHT):
        run.step()
        is_ahead += any(
            each.inner.landing is not None and each.inner.in_flight is not None
            for each in fleet.instances.values()
        )
    assert is_ahead <= 3  # what was launched before
    run.to_end()
    check_streams(run)
    assert fleet.conductor.is_at_rest


def test_waiting_requests_are_aborted_and_the_others_keep_their_turns() -> None:
    fleet = toy_fleet(devices=2)
    flood(fleet)
    run = Run(fleet).steps_of(10)
    light(fleet, tenant="light")
    gone = [*range(20, 40), 100, 103]
    fleet.abort(Abort(handles=tuple(map(Handle, gone))))
    run.steps_of(10)
    fleet.conductor.adopt(POLICIES["load_balance"](PolicyConfig()))
    run.to_end()
    for handle in gone:
        assert run.seen.finished[handle].reason is FinishReason.ABORT
    stay = [handle for handle in FLOOD if handle not in gone]
    firsts = [run.first[handle] for handle in stay]
    assert firsts == sorted(firsts)
    for handle in stay:
        assert run.seen.tokens[handle] == expected([handle + 1, 5], count=100)
    assert fleet.conductor.is_at_rest


def test_a_long_prompt_of_one_tenant_does_not_hold_up_another_s() -> None:
    fleet = toy_fleet(devices=1)
    for handle in range(4):
        prompt = [handle + 1] * 100
        submit(fleet, prompt, handle=handle, params=greedy(3), tenant="long")
    submit(fleet, [9] * 20, handle=100, params=greedy(3), tenant="short")
    run = Run(fleet).to_end()
    assert run.first[100] == min(run.first.values())


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    fleet = toy_fleet(devices=1)
    submit(fleet, [1], handle=1, params=greedy(3), weight=weight)
    run = Run(fleet).to_end()
    assert run.seen.finished[1].field == "weight"

"""What holds for every policy; the harness recounts the ledger after every event."""

import pytest

from mell_jax.scheduler.placement.model import ModelSpec, StepTime
from mell_jax.scheduler.placement.plan import Decision
from mell_jax.scheduler.policies import POLICIES
from tests.scheduler.policy_harness import Fleet, counts, drive


def test_policies_go_by_the_names_of_the_paper_and_of_their_systems() -> None:
    assert {
        "mell",
        "best_fit",
        "worst_fit",
        "load_balance",
        "llumnix_consolidation",
        "reserve_peak",
    } <= set(POLICIES)


def run(name: str, *, seed: int, spec: ModelSpec, devices: int) -> list[Decision]:
    fleet = Fleet(name, capacity=spec.capacity_pages, devices=devices, spec=spec)
    decided = []
    for decisions in drive(fleet, seed=seed, epochs=20, load=6.0):
        decided += decisions
        full = [sum(sizes) for sizes in fleet.sizes.values()]
        assert max(full, default=0) <= spec.capacity_pages
    return decided


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_no_instance_is_over_capacity_and_plans_are_deterministic(name: str) -> None:
    spec = ModelSpec(capacity_pages=48, growth_pages_per_s=0.5)
    for seed in range(4):
        first = run(name, seed=seed, spec=spec, devices=40)
        assert first == run(name, seed=seed, spec=spec, devices=40)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_fleet_that_is_too_small_lets_requests_wait(name: str) -> None:
    spec = ModelSpec(capacity_pages=48)
    for seed in range(4):
        assert counts(run(name, seed=seed, spec=spec, devices=3))["Wait"] > 0


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_step_time_budget_is_kept(name: str) -> None:
    step_time = StepTime(fixed_s=1.0, row_s=0.5, page_s=0.125)
    spec = ModelSpec(capacity_pages=48, step_time=step_time, step_budget_s=7.5)
    for seed in range(4):
        run(name, seed=seed, spec=spec, devices=40)  # the ledger's check knows it

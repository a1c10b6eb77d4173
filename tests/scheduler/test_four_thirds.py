"""The guarantee: at most 4/3 of the lower bound, plus a constant, at every epoch's end.

Workloads differ in load, growth, capacity and the mixture of sizes, all by the seed.
"""

import numpy as np
import pytest

from mell_jax.scheduler.bounds import lower_bound
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import guard
from tests.scheduler.policy_harness import Fleet, drive

CONSTANTS = {
    "mell": 3,  # the latest GPU of every kind may be incomplete
    "consolidate": 2,
}


DEAR = PolicyConfig(move_price_s=1e9)  # nothing is ever worth closing
CHEAP = PolicyConfig()


def keeps_the_guarantee(
    policy: str, *, seed: int, config: PolicyConfig = CHEAP
) -> None:
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(8, 130))
    fleet = Fleet(policy, capacity=capacity, growth_pages_per_s=1.0, config=config)
    load, growth = float(rng.uniform(1.0, 25.0)), float(rng.uniform(0.0, 0.9))
    for _ in drive(fleet, seed=seed, epochs=25, load=load, growth=growth):
        is_kept(policy, fleet)
    for request in list(fleet.live)[::2]:
        fleet.finish(request)  # a load that falls by half at once
    fleet.tick()
    is_kept(policy, fleet)


def is_kept(policy: str, fleet: Fleet) -> None:
    sizes = np.array(list(fleet.live.values()), np.int64)
    bound = lower_bound(sizes, capacity=fleet.capacity)
    assert 3 * len(fleet.sizes) <= 4 * bound + 3 * CONSTANTS[policy], fleet.sizes


@pytest.mark.parametrize("policy", sorted(CONSTANTS))
def test_four_thirds_of_the_bound_are_enough(policy: str) -> None:
    for seed in range(100):
        keeps_the_guarantee(policy, seed=seed)


@pytest.mark.parametrize("seed", [351, 553])
def test_full_instances_are_not_to_change_places(seed: int) -> None:
    """First fit alone made two of them wait for each other, and all behind them."""
    keeps_the_guarantee("consolidate", seed=seed)


def test_a_repacking_fits_everywhere_and_uses_no_more_instances() -> None:
    for seed in range(40):
        fleet = Fleet("consolidate", capacity=20 + seed, config=DEAR)
        for _ in drive(fleet, seed=seed, epochs=8, load=6.0):
            used = sum(bool(pages) for pages in fleet.sizes.values())
            draft = Draft(fleet.machine.ledger)
            guard.repack(draft, ONLY_MODEL)
            sizes = [pages for pages in fleet.sizes.values() if pages]
            assert all(sum(pages) <= fleet.capacity for pages in sizes)
            assert len(sizes) <= used
            draft.clear()


def test_the_guard_alone_keeps_the_guarantee() -> None:
    for seed in range(100):
        keeps_the_guarantee("consolidate", seed=seed, config=DEAR)


def test_without_the_guard_the_guarantee_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "is_exceeded", lambda ledger, model: False)
    with pytest.raises(AssertionError):
        for seed in range(100):
            keeps_the_guarantee("consolidate", seed=seed, config=DEAR)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 2100, 250))
@pytest.mark.parametrize("policy", sorted(CONSTANTS))
def test_four_thirds_of_the_bound_are_enough_in_thousands(
    policy: str, first: int
) -> None:
    for seed in range(first, first + 250):
        keeps_the_guarantee(policy, seed=seed)

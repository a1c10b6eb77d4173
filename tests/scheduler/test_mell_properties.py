"""What the paper promises, on random workloads without growth look-ahead.

P1 to P5 may be broken by a few GPUs at the end of an epoch (the latest of each kind,
and what overflowed or was cut short since); `FEW` is how many, whatever the load.
"""

from collections import Counter

import numpy as np
import pytest

from mell_jax.scheduler.placement.plan import Decision, Move
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.mell import Mell
from tests.scheduler.policy_harness import Fleet, counts, drive

FEW = 6


def class_of(pages: int, capacity: int) -> str:
    for name, above in (("L", 2), ("M", 3), ("S", 4)):
        if above * pages > capacity:
            return name
    return "T"


def broken(fleet: Fleet) -> dict[str, int]:
    """GPUs that break each of the paper's properties."""
    capacity = fleet.capacity
    gpus = [sizes for sizes in fleet.sizes.values() if sizes]
    kinds = [class_of(sizes[0], capacity) for sizes in gpus]
    named = [[class_of(pages, capacity) for pages in sizes] for sizes in gpus]
    partners = [
        pages
        for sizes, kind in zip(gpus, kinds, strict=True)
        for pages in sizes
        if kind in "SM" and class_of(pages, capacity) in "SM"
    ]
    found = dict.fromkeys(["P1", "P2", "P3", "P4", "P5"], 0)
    for sizes, kind, classes in zip(gpus, kinds, named, strict=True):
        is_low = 4 * sum(sizes) < 3 * capacity
        is_single = "S" not in classes and "M" not in classes
        found["P1"] += kind == "M" and classes.count("M") < 2
        found["P2"] += kind == "S" and classes.count("S") < 3
        found["P3"] += kind == "T" and is_low
        fits = any(sizes[0] + pages <= capacity for pages in partners)
        found["P4"] += kind == "L" and is_single and fits
        found["P5"] += kind in "LM" and is_low and "T" in kinds
    return found


@pytest.mark.parametrize("load", [10.0, 50.0])
@pytest.mark.parametrize("seed", range(4))
def test_all_but_a_few_gpus_keep_the_promises(seed: int, load: float) -> None:
    fleet = Fleet("mell", capacity=96, devices=200)
    for _ in drive(fleet, seed=seed, epochs=60, load=load):
        assert max(broken(fleet).values()) <= FEW, broken(fleet)


@pytest.mark.parametrize("cap", [1, 3, 10])
def test_no_operation_exceeds_the_cap(cap: int) -> None:
    for seed in range(5):
        fleet = Fleet("mell", capacity=48, config=PolicyConfig(move_cap=cap))
        moves = sum(
            counts(decisions)["Move"]
            for decisions in drive(fleet, seed=seed, epochs=40)
        )
        assert isinstance(fleet.policy, Mell)
        tally = fleet.policy.tally
        assert tally.most_moves <= cap
        assert moves <= tally.request_moves  # redundant moves were dropped
        assert tally.request_moves >= tally.moves > 0


def items_moved(decisions: list[Decision], *, capacity: int) -> int:
    """At least so many items, where small requests of one way share bundles."""
    large, small = 0, Counter[tuple[int, int]]()
    for decision in decisions:
        if isinstance(decision, Move):
            if 8 * decision.pages > capacity:
                large += 1
            else:
                small[(decision.source, decision.target)] += decision.pages
    return large + sum(-(-4 * pages // capacity) for pages in small.values())


def test_one_event_and_its_epoch_move_no_more_items_than_the_cap() -> None:
    for seed in range(10):
        fleet = Fleet("mell", capacity=48, config=PolicyConfig(move_cap=10))
        for _ in drive(fleet, seed=seed, epochs=15):
            pass
        fleet.tick()  # what earlier events still had to do
        rng = np.random.default_rng(seed)
        for _ in range(20):
            live = list(fleet.live)
            if not live:
                break
            decisions = fleet.finish(live[int(rng.integers(len(live)))])
            decisions += fleet.tick()
            assert items_moved(decisions, capacity=48) <= 10

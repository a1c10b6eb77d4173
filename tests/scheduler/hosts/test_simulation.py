"""Thousands of schedules of a fleet of hosts; protocols with a fault that they find."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.scheduler.hosts.broken import BROKEN, OverwritingAdoption, adopting_by
from tests.scheduler.hosts.faults import Faults
from tests.scheduler.hosts.programs import Parts
from tests.scheduler.hosts.simulation import Simulation
from tests.scheduler.migration.jobs import ViolationError

SEEDS = 600
SHARE = 200
MANY_SEEDS = 15_000
BROKEN_SEEDS = 600


def run(
    seed: int, *, parts: Parts | None = None, faults: Faults | None = None
) -> Simulation:
    simulation = Simulation(seed, parts=parts, faults=faults)
    try:
        simulation.run()
    except BaseException as error:
        error.add_note(f"seed {seed}: {simulation.faults}")
        raise
    return simulation


def run_share(first: int, *, share: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in range(first, first + share):
        counts += run(seed).counts
    return counts


def check_counts(counts: Counter[str], *, share: int) -> None:
    """The schedules had in them what they are to test."""
    assert counts["complete"] > 5 * share, "these schedules test too little"
    assert counts["Commit"] > 3 * share
    assert counts["Retain"] > share
    assert counts["Drop"] > share  # front ends and hosts alone
    assert counts["Unreachable"] > 2 * share
    assert counts["Fenced"] > share // 20
    for fault in ("host killed", "controller killed", "stopped", "cut", "slow"):
        assert counts[fault] > share // 2, fault
    for fault in ("front killed", "aimed", "group failed", "left", "PeerCut"):
        assert counts[fault] > share // 40, fault


@pytest.mark.parametrize("first", range(0, SEEDS, SHARE))
def test_every_stream_is_exact_and_nothing_leaks_in_any_schedule(first: int) -> None:
    check_counts(run_share(first, share=SHARE), share=SHARE)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + MANY_SEEDS, 1_000))
def test_no_stream_breaks_in_many_more_schedules(first: int) -> None:
    check_counts(run_share(first, share=1_000), share=1_000)


def test_a_move_whose_target_its_front_end_lost_before_it_began_is_called_off() -> None:
    run(41_755)  # as it was found


def test_two_controllers_of_which_nobody_can_tell_give_out_other_numbers() -> None:
    run(32_166)  # as it was found


IN_PIECES = Parts(piece_pages=1)


def wish_in(seeds: Iterable[int], *, parts: Parts = IN_PIECES) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        drawn = Faults.draw(random.Random(seed))
        failures = max(drawn.failures, seed % 4)
        faults = replace(drawn, wishes=8, failures=failures)
        counts += run(seed, parts=parts, faults=faults).counts
    return counts


def test_an_operators_wishes_disturb_no_stream() -> None:
    counts = wish_in(range(150))
    for answer, least in (("MoveDone", 50), ("AsideDone", 200), ("PolicyDone", 100)):
        assert counts[answer] > least, answer
    assert counts["WishRefused"] > 100
    assert counts["aside"] > 60


@pytest.mark.slow
def test_an_operators_wishes_disturb_no_stream_in_many_more_schedules() -> None:
    assert wish_in(range(150, 3_000))["complete"] > 5 * 2_850


def test_groups_that_are_set_aside_are_not_used_by_the_next_controller() -> None:
    with pytest.raises(ViolationError, match="used is True"):
        wish_in(range(150), parts=Parts(coordinator=adopting_by(OverwritingAdoption)))


def test_streams_that_begin_again_all_at_once_are_exact() -> None:
    counts: Counter[str] = Counter()
    for seed in range(60):
        counts += run(seed, faults=Faults(breaks=4)).counts
        counts += run(seed, faults=Faults(breaks=2, slow_ways=4, stops=1)).counts
    assert counts["broken"] == 360
    assert counts["Broken"] > 360


def test_hosts_restarted_in_turn_lose_nothing() -> None:
    counts: Counter[str] = Counter()
    num_jobs = 0
    for seed in range(30):
        simulation = run(seed, faults=Faults(is_rolling=True))
        counts += simulation.counts
        num_jobs += len(simulation.jobs)
    assert counts["rolled"] == 30
    assert counts["left"] == 90  # all of them, once their requests had moved away
    assert counts["complete"] == num_jobs > 150


@pytest.mark.parametrize("fault", BROKEN)
def test_the_simulation_finds_a_broken_protocol_out(fault: str) -> None:
    with pytest.raises((ViolationError, AssertionError, KeyError, ValueError)):
        for seed in range(BROKEN_SEEDS):
            run(seed, parts=BROKEN[fault])


def test_a_schedule_can_be_replayed_from_its_seed() -> None:
    first, second = run(7), run(7)
    assert first.counts == second.counts
    assert first.network.now == second.network.now > 20
    assert first.counts["Row"] > 50

"""The results page: every run once, means and verdicts from the figures alone."""

import gzip
import math
from pathlib import Path

from mell_jax.scheduler.simulator.report import Line
from mell_jax.scheduler.simulator.results.cases import CASES, SMALL_CASES, Case
from mell_jax.scheduler.simulator.results.compare import HAS_HEADROOM, REPACK
from mell_jax.scheduler.simulator.results.page import (
    Results,
    Section,
    Table,
    standing,
    timed_verdict,
    verdict,
    write_page,
)
from mell_jax.scheduler.simulator.results.publish import PRICES, measure
from mell_jax.scheduler.simulator.results.small import SmallFleet, write_small
from mell_jax.scheduler.simulator.settings import Settings


def still() -> float:
    """A clock for other processes."""
    return 0.0


def table(**devices: float) -> Table:
    """Policies that differ in devices; `mell` moves four times as much as ours."""
    counts = dict.fromkeys(
        [
            "devices_peak",
            "utilization_mean",
            "migrations_per_request",
            "tokens_recomputed",
            "preemptions",
            "activations",
            "rejected",
            "wait_p99_s",
            "pause_s",
            "decision_us_p99",
            "replays",
            "deferrals",
            "violations",
        ],
        0.0,
    )
    moves = {"mell": 400.0, "consolidate": 100.0, "best_fit": 2000.0}
    return {
        policy: Line(
            policy=policy,
            headroom=0.0,
            figures=counts
            | {
                "devices_mean": number,
                "lower_bound_mean": 10.0,
                "migrations": moves.get(policy, 0.0),
                "tokens_moved": 5000 * moves.get(policy, 0.0),
            },
        )
        for policy, number in (
            dict.fromkeys(HAS_HEADROOM, 20.0) | {"mell": 13.0} | devices
        ).items()
    }


def section(instant: Table, *, seeds: int = 1) -> Section:
    return Section(
        title="By hand",
        workload="trace",
        requests=1234,
        seeds=seeds,
        span_s=600.0,
        instant=instant,
        timed=None,
    )


def whole_page(*sections: Section) -> str:
    results = Results(sections=sections, small=[], curves=[], missing=[])
    return write_page(results, picture="curves.svg")


def test_a_gap_that_is_closed_is_counted() -> None:
    rows = table(best_fit=15.0, consolidate=11.0, repack=10.0)
    at = standing(rows)
    assert (at.per_bound, at.per_repack, at.moves, at.tokens) == (1.1, 1.1, 0.25, 0.25)
    assert (at.baseline, at.gap, at.closed) == ("best_fit", 0.5, 0.8)
    assert verdict(section(rows)) == [
        "`consolidate` uses 1.100 of the bound and 1.100 of `repack`, with 0.25 of "
        "`mell`'s moves, 0.25 of its tokens and as many preemptions.",
        "The best baseline, `best_fit`, is 50.0% above `repack`; `consolidate` closes "
        "80% of that.",
        "`consolidate` makes 0.05 of its moves.",
    ]


def test_where_there_is_no_gap_no_gain_is_expected() -> None:
    rows = table(load_balance=10.4, consolidate=10.5, repack=10.0)
    assert verdict(section(rows))[-1] == (
        "The best baseline, `load_balance`, is 4.0% above `repack`: within 5%, no gain "
        "is to be expected here."
    )
    assert "| no gain to expect |" in whole_page(section(rows))


def test_a_loss_is_said_as_well() -> None:
    rows = table(best_fit=12.0, consolidate=13.0, repack=10.0)
    assert "`consolidate` closes nothing of that." in verdict(section(rows))[-2]


def test_the_order_of_the_paper_is_checked_where_there_are_seeds() -> None:
    def said(**devices: float) -> str:
        rows = table(consolidate=11.0, repack=10.0, **devices)
        return verdict(section(rows, seeds=3))[1]

    holds = said(worst_fit=15.0, load_balance=14.0, mell=13.0)
    assert holds.startswith("The paper's order WF > LB > MELL holds: `worst_fit` 15.00")
    assert "does not hold" in said(worst_fit=15.0, load_balance=12.0, mell=13.0)


def test_time_of_moves_may_change_who_is_best() -> None:
    before = table(best_fit=12.0, consolidate=10.0, repack=10.0)
    after = table(best_fit=12.0, consolidate=11.0, repack=10.0)
    said = timed_verdict(before, after)
    assert said.startswith("`consolidate` still needs the fewest devices: 1.100 of the")
    assert "+10.0% against moves that take no time" in said
    worse = table(best_fit=10.5, consolidate=11.0, repack=10.0)
    said = timed_verdict(before, worse)
    assert said.startswith(
        "`best_fit` needs the fewest devices now, `consolidate` 4.8%"
    )


def test_the_page_has_every_case_whose_trace_is_there(tmp_path: Path) -> None:
    lines = "".join(f"{n / 2},{300 + 97 * (n % 9)},90\n" for n in range(80))
    head = "arrival_s,input_tokens,output_tokens\n"
    (tmp_path / "mine.csv.gz").write_bytes(gzip.compress((head + lines).encode()))
    settings = Settings(capacity_tokens=3000, link_gbps=math.inf)
    cases = [
        Case(title="Drawn", settings=settings, span_s=20.0, seeds=(0, 1)),
        Case(title="Mine", settings=settings, trace="mine", is_timed=True),
        Case(title="Yours", settings=settings, trace="yours"),
        Case(
            title="Few",
            settings=settings,
            trace="mine",
            start_s=10.0,
            span_s=20.0,
            is_timed=True,
            is_small=True,
            has_curve=True,
        ),
    ]
    heard: list[str] = []
    first, second = (
        measure(
            data=tmp_path,
            clock=still,
            jobs=2,
            say=heard.append,
            most_s=30.0,
            cases=cases,
        )
        for _ in range(2)
    )
    assert first == second
    page = write_page(first, picture="curves.svg")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## `consolidate` in every case, moves taking no time",
        "## Devices against bytes",
        "## Small fleets",
        "## What bounds the bytes",
        "## Drawn",
        "## Mine",
    ]
    assert "60 requests of the first 30 s (mine)." in page
    assert "means over 2 seeds" in page
    assert "With moves that take their time:" in page
    assert page.rstrip().endswith("Not run, for want of a trace: Yours.")
    # three baselines at three headrooms, ours and a bound are 12 runs, 14 in the
    # paper's setting; then 8 with another seed, 4 with bounded links; of a small fleet
    # one with links, and 5 prices
    assert len(heard) == 2 * (14 + 12 + 12 + 8 + 4 + 6)
    assert heard[0] == "1/38 Drawn: best_fit 0%"
    (curve,) = first.curves
    assert len(curve.points) == 3 * 3 + 2 + len(PRICES)
    (fleet,) = first.small
    assert fleet.of_repack(REPACK) == 1.0 and fleet.of_mell("mell") == 1.0


def few(title: str, *, ours: float, tokens: float, is_chosen: bool) -> SmallFleet:
    rows = table(consolidate=ours, repack=10.0)
    moved = {"mell": 100.0, "consolidate": tokens}
    for policy, line in rows.items():
        line.figures["tokens_moved"] = moved.get(policy, 50.0)
    return SmallFleet(title=title, is_chosen=is_chosen, lines=rows, timed_devices=10.5)


def test_small_fleets_are_told_by_whether_constants_were_chosen_on_them() -> None:
    text = write_small(
        [
            few("one", ours=10.2, tokens=40.0, is_chosen=False),
            few("two", ours=10.4, tokens=60.0, is_chosen=False),
            few("three", ours=10.1, tokens=40.0, is_chosen=True),
        ]
    )
    others, chosen = text.split("Settings that constants were chosen on:")
    assert "| one | 10.00 | 1.020 | 1.050 | 0.40 | 0.00 s | 2.000 | 0.50 |" in others
    assert (
        "needs 1.030 of `repack` on average, 1.040 at worst, and 0.50 of `mell`'s "
        "tokens, 0.60 at worst. It keeps within 1.03 in 1 of 2, within 0.45 of "
        "`mell`'s tokens in 1; it needs no more devices than any baseline in 2, and "
        "moves no more than `llumnix_consolidation` in 1."
    ) in others
    assert "| three |" in chosen


def test_the_cases_are_told_apart_by_their_titles() -> None:
    titles = [case.title for case in CASES + SMALL_CASES]
    assert len(set(titles)) == len(titles) == 11 + 22


def test_half_of_the_small_fleets_were_not_looked_at() -> None:
    chosen = [case.is_chosen for case in SMALL_CASES]
    assert chosen.count(False) >= chosen.count(True)

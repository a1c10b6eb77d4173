"""Runs every case of the results page, on all cores, and hands the figures to the page.

    case x policy x headroom              ->  the best headroom of each policy
    case x policy at its best x more seeds, or bounded links  ->  means  ->  page
    case x `consolidate` at other prices of a move            ->  curves ->  picture

`make results` calls this; traces are used where their folder is given, and the built-in
synthetic workloads always. The page does not depend on the order in which runs end.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

from mell_jax.scheduler.simulator.fleet import Clock
from mell_jax.scheduler.simulator.report import Line
from mell_jax.scheduler.simulator.results.cases import (
    CASES,
    SMALL_CASES,
    Case,
    find_trace,
    load,
)
from mell_jax.scheduler.simulator.results.compare import (
    DEFAULT,
    REPACK,
    REPACK_LIVE,
    run_policy,
)
from mell_jax.scheduler.simulator.results.page import Results, Section, Table
from mell_jax.scheduler.simulator.results.small import (
    Curve,
    CurvePoint,
    SmallFleet,
)

HEADROOMS = (0.0, 0.05, 0.1)
TRIED = ("best_fit", "load_balance", "llumnix_consolidation")  # at all of them
PAPERS = (  # in the settings of papers
    "best_fit",
    "worst_fit",
    "load_balance",
    "llumnix_consolidation",
    "reserve_peak",
)
OURS = ("mell", "consolidate")
TIMED = (*OURS, "llumnix_consolidation", REPACK)  # also with bounded links
PRICES = (0.1, 0.25, 1.5, 4.0, 12.0)  # of a move, beside the default


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRun:
    """One simulation; everything that another process needs for it."""

    case: Case
    is_timed: bool
    seed: int
    policy: str
    headroom: float
    data: Path | None
    clock: Clock
    price_s: float = DEFAULT.move_price_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A run measured these figures."""

    run: SettingRun
    requests: int
    workload: str
    figures: dict[str, float]


def measure(
    *,
    data: Path | None,
    clock: Clock,
    jobs: int,
    say: Callable[[str], None],
    most_s: float | None = None,
    cases: Sequence[Case] = CASES + SMALL_CASES,
) -> Results:
    """Runs everything that the page tells.

    Args:
      data: folder of traces; cases without theirs are left out and named.
      jobs: processes that simulate at a time.
      most_s: only the first seconds of every workload.
    """
    if most_s is not None:
        cases = [replace(case, span_s=min(case.span_s, most_s)) for case in cases]
    given = [case for case in cases if _is_given(case, data)]
    first = [run for case in given for run in _first(case, data=data, clock=clock)]
    context = get_context("spawn")  # a fork would copy the threads of others
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        done = list(_heard(pool.map(simulate, first), total=len(first), say=say))
        more = [run for case in given for run in _more(case, done)]
        done += _heard(pool.map(simulate, more), total=len(more), say=say)
    return Results(
        sections=[_section(case, done) for case in given if not case.is_small],
        small=[_small(case, done) for case in given if case.is_small],
        curves=[_curve(case, done) for case in given if case.has_curve],
        missing=[case.title for case in cases if not _is_given(case, data)],
    )


def simulate(run: SettingRun) -> Ran:
    """One run, in a process of its own."""
    workload = load(run.case, data=run.data, seed=run.seed)
    case = run.case.timed() if run.is_timed else run.case
    outcome = run_policy(
        run.policy,
        workload=workload,
        settings=case.settings,
        headroom=run.headroom,
        clock=run.clock,
        knobs=replace(DEFAULT, move_price_s=run.price_s),
        progress=lambda served: None,
    )
    return Ran(
        run=run,
        requests=len(workload),
        workload=workload.name,
        figures=outcome.figures,
    )


def _is_given(case: Case, data: Path | None) -> bool:
    return case.trace is None or find_trace(case, data) is not None


def _first(case: Case, *, data: Path | None, clock: Clock) -> Iterator[SettingRun]:
    """Every policy at every headroom, in the order of the tables."""
    bounds = (REPACK, REPACK_LIVE) if case.has_live else (REPACK,)
    baselines = PAPERS if case.is_papers else TRIED
    for policy in (*baselines, *OURS, *bounds):
        for headroom in HEADROOMS if policy in TRIED else (0.0,):
            yield SettingRun(
                case=case,
                is_timed=False,
                seed=case.seeds[0],
                policy=policy,
                headroom=headroom,
                data=data,
                clock=clock,
            )


def _more(case: Case, done: Sequence[Ran]) -> Iterator[SettingRun]:
    """Every policy at its best headroom: with other seeds, and with bounded links.

    Of a small fleet only `consolidate` runs with bounded links; it runs at other
    prices where the case has a curve.
    """
    for best in _best(case, done):
        policy = best.run.policy
        if policy != REPACK_LIVE:
            for seed in case.seeds[1:]:
                yield replace(best.run, seed=seed)
            timed = ("consolidate",) if case.is_small else TIMED
            if case.is_timed and policy in timed:
                yield replace(best.run, is_timed=True)
        if policy == "consolidate" and case.has_curve:
            for price_s in PRICES:
                yield replace(best.run, price_s=price_s)


def _best(case: Case, done: Sequence[Ran]) -> list[Ran]:
    """Picks every policy's run of the first seed with the fewest devices."""
    best: dict[str, Ran] = {}
    for ran in done:
        run = ran.run
        if run.case != case or run.is_timed or run.seed != case.seeds[0]:
            continue
        if run.price_s != DEFAULT.move_price_s:
            continue
        known = best.get(run.policy)
        fewest = ran.figures["devices_mean"]
        if known is None or fewest < known.figures["devices_mean"]:
            best[run.policy] = ran
    return list(best.values())


def _heard(
    done: Iterator[Ran], *, total: int, say: Callable[[str], None]
) -> Iterator[Ran]:
    """Tells of every run that is done."""
    for number, ran in enumerate(done, start=1):
        run = ran.run
        links = ", bounded links" if run.is_timed else ""
        say(
            f"{number}/{total} {run.case.title}{links}: {run.policy} {run.headroom:.0%}"
        )
        yield ran


def _section(case: Case, done: Sequence[Ran]) -> Section:
    best = _best(case, done)
    more = [ran for ran in done if ran.run.case == case]
    timed = {ran.run.policy: _line([ran]) for ran in more if ran.run.is_timed}
    instant: Table = {}
    for chosen in best:
        same = [
            ran
            for seed in case.seeds
            for ran in more
            if ran.run == replace(chosen.run, seed=seed)
        ]
        instant[chosen.run.policy] = _line(same)
    return Section(
        title=case.title,
        workload=best[0].workload,
        requests=best[0].requests,
        seeds=len(case.seeds),
        span_s=case.span_s,
        instant=instant,
        timed=timed or None,
    )


def _small(case: Case, done: Sequence[Ran]) -> SmallFleet:
    lines = {ran.run.policy: _line([ran]) for ran in _best(case, done)}
    timed = [ran for ran in done if ran.run.case == case and ran.run.is_timed]
    return SmallFleet(
        title=case.title,
        is_chosen=case.is_chosen,
        lines=lines,
        timed_devices=timed[0].figures["devices_mean"],
    )


def _curve(case: Case, done: Sequence[Ran]) -> Curve:
    """Every run of the first seed whose moves took no time, as a point."""
    own = [
        ran
        for ran in done
        if ran.run.case == case
        and not ran.run.is_timed
        and ran.run.seed == case.seeds[0]
    ]
    ideal = next(ran for ran in own if ran.run.policy == REPACK)
    points = [
        CurvePoint(
            policy=ran.run.policy,
            price_s=ran.run.price_s,
            devices=ran.figures["devices_mean"] / ideal.figures["devices_mean"],
            moved=ran.figures["tokens_moved"] / max(1, ran.figures["served_tokens"]),
        )
        for ran in own
        if ran.run.policy not in (REPACK, REPACK_LIVE)
    ]
    return Curve(title=case.title, points=points)


def _line(done: Sequence[Ran]) -> Line:
    """Means over runs that differ in their seeds only."""
    names = done[0].figures
    run = done[0].run
    return Line(
        policy=run.policy,
        headroom=run.headroom,
        figures={name: fmean(ran.figures[name] for ran in done) for name in names},
    )

"""Runs every case of the results page, on all cores, and hands the figures to the page.

    case x policy x headroom              ->  the best headroom of each policy
    case x policy at its best x more seeds, or bounded links  ->  means  ->  page

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
from mell_jax.scheduler.simulator.results.cases import CASES, Case, find_trace, load
from mell_jax.scheduler.simulator.results.compare import (
    HAS_HEADROOM,
    REPACK,
    REPACK_LIVE,
    run_policy,
)
from mell_jax.scheduler.simulator.results.page import Section, Table, write_page

HEADROOMS = (0.0, 0.05, 0.1)
OURS = ("mell", "consolidate")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a run measured."""

    run: SettingRun
    requests: int
    workload: str
    figures: dict[str, float]


def page(
    *,
    data: Path | None,
    clock: Clock,
    jobs: int,
    say: Callable[[str], None],
    most_s: float | None = None,
    cases: Sequence[Case] = CASES,
) -> str:
    """The whole page.

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
    sections = [_section(case, done) for case in given]
    missing = [case.title for case in cases if not _is_given(case, data)]
    return write_page(sections, missing=missing)


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
    for policy in (*HAS_HEADROOM, *OURS, *bounds):
        for headroom in HEADROOMS if policy in HAS_HEADROOM else (0.0,):
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
    """Every policy at its best headroom: with other seeds, and with bounded links."""
    for best in _best(case, done):
        if best.run.policy != REPACK_LIVE:
            for seed in case.seeds[1:]:
                yield replace(best.run, seed=seed)
            if case.is_timed:
                yield replace(best.run, is_timed=True)


def _best(case: Case, done: Sequence[Ran]) -> list[Ran]:
    """Of every policy the run of the first seed with the fewest devices."""
    best: dict[str, Ran] = {}
    for ran in done:
        run = ran.run
        if run.case != case or run.is_timed or run.seed != case.seeds[0]:
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


def _line(done: Sequence[Ran]) -> Line:
    """Means over runs that differ in their seeds only."""
    names = done[0].figures
    run = done[0].run
    return Line(
        policy=run.policy,
        headroom=run.headroom,
        figures={name: fmean(ran.figures[name] for ran in done) for name in names},
    )

"""The results page as Markdown; every number and every verdict comes from figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mell_jax.scheduler.simulator.report import Columns, Line, markdown
from mell_jax.scheduler.simulator.results.compare import HAS_HEADROOM, REPACK
from mell_jax.scheduler.simulator.results.small import Curve, SmallFleet, write_small

Table = dict[str, Line]  # by policy
GAIN = 0.05  # a gap between the best baseline and `repack` that is worth closing
COLUMNS: Columns = (
    ("devices", "devices_mean", "{:.2f}"),
    ("/bound", "per_bound", "{:.3f}"),
    ("peak", "devices_peak", "{:.0f}"),
    ("utilisation", "utilization_mean", "{:.1%}"),
    ("moves", "migrations", "count"),
    ("/request", "migrations_per_request", "{:.2f}"),
    ("tokens moved", "tokens_moved", "count"),
    ("recomputed", "tokens_recomputed", "count"),
    ("preemptions", "preemptions", "{:.0f}"),
    ("activations", "activations", "{:.0f}"),
    ("rejected", "rejected", "{:.0f}"),
    ("paused", "pause_s", "{:.1f} s"),
    ("wait p99", "wait_p99_s", "{:.2f} s"),
    ("us p99", "decision_us_p99", "{:.0f}"),
)
TIMED_COLUMNS = (
    *COLUMNS[:8],
    ("replays", "replays", "count"),
    ("deferred", "deferrals", "count"),
    ("violations", "violations", "count"),
    *COLUMNS[8:],
)
HEAD = """\
# Results

Made by `make results DATA=<folder with traces>`; do not edit.

Devices are time averages from 25% of the arrivals' span to the last arrival; `/bound`
is their ratio to the L2 lower bound at the end of every epoch, of the requests that
would be alive if nobody had ever waited. `best_fit`, `load_balance` and
`llumnix_consolidation` are shown at their best headroom of 0, 5 and 10%, named beside
them if it is not 0. `consolidate` lets an arrival wait up to 0.1 s before it opens a
device; `wait` is from the arrival to the start of the prefill, `paused` is how long all
requests together stood still for want of a page. In the first table
of a section moves take no time, so that only decisions are compared. Where there is a
second, at the same headrooms, links carry 200 Gb/s each way for 128 KiB of KV a token,
a quarter of 8,000 prefilled tokens/s may be spent on moves, and both ends of a move
hold the pages until it ends. `repack` counts what first fit decreasing needs at the end
of an epoch and is no fleet that could run; `repack_live` packs for free at every epoch
and serves between them. Counts are of whole runs. Decision times were taken while all
cores were busy.
"""

CURVES = """\
## Devices against bytes

![devices of repack against tokens moved per token served]({picture})

Every point is a run whose moves took no time. Ours is a curve over `--move_price_s`,
the ring is the default; the points of a baseline are its headrooms. Lower is fewer
devices, left is fewer bytes.
"""
SMALL = """\
A loss of half a device hides in a ratio on a large fleet, so fleets of a few devices
have settings of their own: slices of every trace, and lengths of traces that arrive at
random. Devices are of `repack`, tokens of those that `mell` moves."""
NOTES = """\
## What bounds the bytes

A closing pays when the pages it moves are worth less than the device time it spares.
For a volume that walks at random that rule is the best one there is, so devices and
bytes are a curve and a price is a point on it; one price for all workloads is not the
same share of `mell`'s tokens on each. Where requests are short (`azure_*`) the volume
crosses a whole device every few seconds, and `mell` does not follow it: there 1.03 of
`repack` costs more than 0.45 of its tokens. Where outputs are long (the paper's
setting, `len_bwb`) growth moves most of the bytes: full instances hand on what they
cannot hold, and a smaller reserve for growth, which saves devices, costs moves.

Tried without gain at equal devices: the remaining life of what would move, a volume
that returns to its mean, a longer and a shorter memory of its variance, twice and three
times the reserve for growth, emptier targets for what overflows, smaller and larger
requests to be moved there, and holding arrivals away from the emptiest instance.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One case as it was measured; counts are means over `seeds` workloads."""

    title: str
    workload: str
    requests: int  # of the first seed
    seeds: int
    span_s: float
    instant: Table
    timed: Table | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All that was measured."""

    sections: Sequence[Section]
    small: Sequence[SmallFleet]
    curves: Sequence[Curve]
    missing: Sequence[str]  # titles of cases whose traces were not given


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Returns how `consolidate` stands in a table."""

    per_bound: float
    per_repack: float
    moves: float  # of mell's
    tokens: float  # of mell's
    preemptions: float  # beyond mell's
    baseline: str  # the best one
    gap: float  # of that one above `repack`, relative
    closed: float  # of that gap
    baseline_moves: float  # `consolidate`'s, of that one's
    baseline_tokens: float  # likewise

    @property
    def is_gain_possible(self) -> bool:
        return self.gap > GAIN


def standing(table: Table) -> Standing:
    """Compares `consolidate` with bound, `repack`, `mell` and the best baseline."""
    devices = {name: line.figures["devices_mean"] for name, line in table.items()}
    ours, mell = table["consolidate"].figures, table["mell"].figures
    ideal = devices[REPACK]
    baseline = min(
        (name for name in HAS_HEADROOM if name in devices),
        key=lambda name: devices[name],
    )
    gap = devices[baseline] - ideal
    closed = (devices[baseline] - devices["consolidate"]) / gap if gap > 0 else 0.0
    return Standing(
        per_bound=_ratio(ours["devices_mean"], ours["lower_bound_mean"]),
        per_repack=_ratio(devices["consolidate"], ideal),
        moves=_ratio(ours["migrations"], mell["migrations"]),
        tokens=_ratio(ours["tokens_moved"], mell["tokens_moved"]),
        preemptions=ours["preemptions"] - mell["preemptions"],
        baseline=baseline,
        gap=_ratio(gap, ideal),
        closed=closed,
        baseline_moves=_ratio(
            ours["migrations"], table[baseline].figures["migrations"]
        ),
        baseline_tokens=_ratio(
            ours["tokens_moved"], table[baseline].figures["tokens_moved"]
        ),
    )


def write_page(results: Results, *, picture: str) -> str:
    """The page; `picture` is the file of the curves, from the page's own folder."""
    parts = [HEAD, _summary(results.sections)]
    if results.curves:
        parts.append(CURVES.format(picture=picture))
    if results.small:
        parts.append(f"## Small fleets\n\n{SMALL}\n\n{write_small(results.small)}\n")
    parts += [NOTES, *(_section(section) for section in results.sections)]
    if results.missing:
        names = "; ".join(results.missing)
        parts.append(f"Not run, for want of a trace: {names}.\n")
    return "\n".join(parts)


def _summary(sections: Sequence[Section]) -> str:
    """One line for each case: what `consolidate` gains, or that there is nothing."""
    lines = [
        "| case | of the bound | of `repack` | `mell`'s moves | its tokens | "
        "best baseline | above `repack` | closed | of its moves | of its tokens |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for section in sections:
        at = standing(section.instant)
        closed = (
            f"{max(0.0, at.closed):.0%}" if at.is_gain_possible else "no gain to expect"
        )
        lines.append(
            f"| {section.title} | {at.per_bound:.3f} | {at.per_repack:.3f} | "
            f"{_share(at.moves)} | {_share(at.tokens)} | `{at.baseline}` | "
            f"{at.gap:.1%} | {closed} | {_share(at.baseline_moves)} | "
            f"{_share(at.baseline_tokens)} |"
        )
    table = "\n".join(lines)
    return f"## `consolidate` in every case, moves taking no time\n\n{table}\n"


def _section(section: Section) -> str:
    means = f", means over {section.seeds} seeds" if section.seeds > 1 else ""
    parts = [
        f"## {section.title}",
        f"{section.requests:,} requests of the first {section.span_s:,.0f} s "
        f"({section.workload}){means}.",
        markdown(list(section.instant.values()), columns=COLUMNS),
        " ".join(verdict(section)),
    ]
    if section.timed is not None:
        parts += [
            "With moves that take their time:",
            markdown(list(section.timed.values()), columns=TIMED_COLUMNS),
            timed_verdict(section.instant, section.timed),
        ]
    return "\n\n".join(parts) + "\n"


def verdict(section: Section) -> list[str]:
    """Says what a reader should take from a table, also when it is nothing."""
    at = standing(section.instant)
    said = [
        f"`consolidate` uses {at.per_bound:.3f} of the bound and {at.per_repack:.3f} "
        f"of `repack`, with {_share(at.moves)} of `mell`'s moves, "
        f"{_share(at.tokens)} of its tokens and {_than(at.preemptions)} preemptions."
    ]
    if section.seeds > 1:
        said.append(_papers_order(section.instant))
    baseline = f"The best baseline, `{at.baseline}`, is {at.gap:.1%} above `repack`"
    if not at.is_gain_possible:
        said.append(f"{baseline}: within {GAIN:.0%}, no gain is to be expected here.")
    elif at.closed > 0:
        said.append(f"{baseline}; `consolidate` closes {at.closed:.0%} of that.")
    else:
        said.append(f"{baseline}; `consolidate` closes nothing of that.")
    if not math.isnan(at.baseline_moves):
        said.append(f"`consolidate` makes {_share(at.baseline_moves)} of its moves.")
    return said


def timed_verdict(instant: Table, timed: Table) -> str:
    """Says whether the time of moves changes who is best, and what it costs."""
    now, before = standing(timed), standing(instant)
    devices = {name: line.figures["devices_mean"] for name, line in timed.items()}
    best = min(
        (name for name in devices if name != REPACK), key=lambda name: devices[name]
    )
    cost = _ratio(
        devices["consolidate"], instant["consolidate"].figures["devices_mean"]
    )
    said = (
        "`consolidate` still needs the fewest devices"
        if best == "consolidate"
        else f"`{best}` needs the fewest devices now, `consolidate` "
        f"{_ratio(devices['consolidate'], devices[best]) - 1:.1%} more"
    )
    return (
        f"{said}: {now.per_bound:.3f} of the bound, {cost - 1:+.1%} against moves that "
        f"take no time, with {_share(now.moves)} of `mell`'s moves "
        f"({_share(before.moves)} before). The best baseline, `{now.baseline}`, is "
        f"{now.gap:.1%} above "
        "`repack`."
    )


def _papers_order(table: Table) -> str:
    """Whether the paper's order holds: WF > LB > MELL in devices."""
    names = ("worst_fit", "load_balance", "mell")
    devices = [table[name].figures["devices_mean"] for name in names]
    numbers = ", ".join(
        f"`{name}` {number:.2f}" for name, number in zip(names, devices, strict=True)
    )
    holds = devices[0] > devices[1] > devices[2]
    used = table["mell"].figures["utilization_mean"]
    return (
        f"The paper's order WF > LB > MELL {'holds' if holds else 'does not hold'}: "
        f"{numbers}; `mell` uses {used:.1%} of the memory."
    )


def _than(difference: float) -> str:
    if difference == 0:
        return "as many"
    return f"{abs(difference):.0f} {'more' if difference > 0 else 'fewer'}"


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.2f}"


def _ratio(value: float, base: float) -> float:
    return value / base if base else float("nan")

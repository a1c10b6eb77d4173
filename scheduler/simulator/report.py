"""Figures of several policies as tables of at most 100 columns, or as Markdown."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mell_jax.scheduler.simulator.money import kind_of_mean, peak_of
from mell_jax.scheduler.simulator.settings import Settings

Columns = tuple[tuple[str, str, str], ...]
FLEET: Columns = (  # heading, figure, format ("count": see `count`; "ms")
    ("devices", "devices_mean", "{:.2f}"),
    ("peak", "devices_peak", "{:.0f}"),
    ("L2 bound", "lower_bound_mean", "{:.2f}"),
    ("/bound", "per_bound", "{:.3f}"),
    ("utilization", "utilization_mean", "{:.1%}"),
    ("opened", "activations", "{:.0f}"),
    ("rejected", "rejected", "{:.0f}"),
)
COST: Columns = (
    ("moves", "migrations", "count"),
    ("/request", "migrations_per_request", "{:.2f}"),
    ("moved", "tokens_moved", "count"),
    ("redone", "tokens_recomputed", "count"),
    ("replays", "replays", "count"),
    ("late", "deferrals", "count"),
    ("over", "violations", "count"),
    ("preempt", "preemptions", "count"),
)
SERVICE: Columns = (
    ("wait mean", "wait_mean_s", "{:.3f}s"),
    ("wait p99", "wait_p99_s", "{:.2f}s"),
    ("pauses", "pauses", "count"),
    ("paused", "pause_s", "{:.1f}s"),
    ("longest", "pause_max_s", "{:.3f}s"),
    ("us p50", "decision_us_p50", "{:.0f}"),
    ("us p99", "decision_us_p99", "{:.0f}"),
)
LATENCY: Columns = (
    ("ttft p50", "ttft_p50_s", "{:.2f}s"),
    ("p90", "ttft_p90_s", "{:.2f}s"),
    ("p99", "ttft_p99_s", "{:.2f}s"),
    ("tpot p50", "tpot_p50_s", "ms"),
    ("p90", "tpot_p90_s", "ms"),
    ("p99", "tpot_p99_s", "ms"),
    ("e2e p50", "e2e_p50_s", "{:.1f}s"),
    ("p99", "e2e_p99_s", "{:.1f}s"),
    ("met", "slo_attainment", "{:.1%}"),
)
KEPT: Columns = (
    ("kept warm", "devices_warm_mean", "{:.2f}"),
    ("found", "prefix_hit_tokens", "count"),
    ("of prompts", "prefix_hit_share", "{:.1%}"),
)
MONEY: Columns = (
    ("money/h", "money_per_hour", "{:.2f}"),
    ("bound/h", "money_bound_per_hour", "{:.2f}"),
    ("/bound", "per_money_bound", "{:.3f}"),
    ("saved/h", "money_saved_per_hour", "{:.2f}"),
    ("saved", "money_saved_share", "{:.1%}"),
)
LOSSES: Columns = (
    ("lost", "losses", "count"),
    ("requests", "lost_requests", "count"),
    ("tokens", "lost_tokens", "count"),
    ("wait mean", "loss_wait_mean_s", "{:.2f}s"),
    ("wait p99", "loss_wait_p99_s", "{:.2f}s"),
    ("longest", "loss_wait_max_s", "{:.2f}s"),
)
SENT: Columns = (("sent", "bytes_moved", "count"),)
TABLES = (FLEET, COST + SENT, SERVICE)
LEGEND = """\
devices, L2 bound, utilization: means from 25% of the arrivals' span to the last arrival
L2 bound: of the workload, as if nobody ever waited; wait: arrival to start of prefill
moves: migrations; moved: their tokens; redone: tokens recomputed, replayed or preempted
sent: bytes that links carry for moves, of the pages that requests hold, or tokens
pauses: times that a placed request stood still for want of a page; paused: in all
late: moves deferred by an epoch; over: moves that overdrew a link or a target's prefill
ttft, tpot, e2e: until the first token, a request's mean between tokens, until the last
met: requests within --slo_ttft_ms and --slo_tpot_ms, of those served
us: time of a decision; a percentage beside a baseline: its best headroom"""
MONEY_LEGEND = """\
money/h: price of the devices in use; bound/h: no fleet could serve for less
saved: of what best_fit costs; by kind: mean and peak of the devices in use"""
LOSS_LEGEND = """\
lost: devices; requests, tokens: on them, prefilled again; wait: until that begins"""


class PolicyFigures(Protocol):
    """A policy at a headroom, and its figures by name."""

    @property
    def policy(self) -> str: ...
    @property
    def headroom(self) -> float: ...
    @property
    def figures(self) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The plainest `PolicyFigures`, for means of several runs."""

    policy: str
    headroom: float
    figures: dict[str, float]


def rows(outcomes: Sequence[PolicyFigures], *, columns: Columns) -> list[list[str]]:
    """A heading and one row for each outcome."""
    table = [["policy", *(heading for heading, _, _ in columns)]]
    for outcome in outcomes:
        bound = outcome.figures["lower_bound_mean"]
        ratio = outcome.figures["devices_mean"] / bound if bound else float("nan")
        figures = outcome.figures | {
            "per_bound": ratio,
            "per_money_bound": _per_money_bound(outcome),
        }
        knob = f" {outcome.headroom:.0%}" if outcome.headroom else ""
        cells = [_cell(figures.get(name, math.nan), form) for _, name, form in columns]
        table.append([outcome.policy + knob, *cells])
    return table


def _per_money_bound(outcome: PolicyFigures) -> float:
    bound = outcome.figures.get("money_bound_per_hour")
    return outcome.figures["money_per_hour"] / bound if bound else math.nan


def _cell(value: float, form: str) -> str:
    if math.isnan(value):
        return "-"
    if form == "ms":
        return f"{1e3 * value:.1f}ms"
    return count(value) if form == "count" else form.format(value)


def count(value: float) -> str:
    """A count in at most five characters: 950, 12k, 3.4M."""
    for limit, divisor, suffix in ((1e4, 1, ""), (1e7, 1e3, "k"), (1e10, 1e6, "M")):
        if value < limit:
            return f"{value / divisor:.0f}{suffix}"
    return f"{value / 1e9:.0f}G"


def layers(settings: Settings) -> str:
    """Says how the layers of a model with windows lie in pages."""
    groups = settings.cache.groups
    said = [
        f"{number} {'of all pages' if ring is None else f'of at most {ring} pages'}"
        for ring, number in Counter(group.ring for group in groups).items()
    ]
    return (
        f"{settings.num_layers} layers, {settings.layers_per_page} to a page; groups: "
        f"{', '.join(said)} of a request\n"
    )


def kinds(settings: Settings) -> str:
    """Says of which kinds a fleet's devices are."""
    said = [
        f"{own.count} {own.kind} of {own.capacity_tokens:,} tokens, speed "
        f"{own.speed:g}, {own.price_per_hour:g} an hour"
        for own in settings.devices
    ]
    return "\n".join(said) + "\n"


def table(outcomes: Sequence[PolicyFigures]) -> str:
    """The fleet, what it cost, how requests fared, and what the headings mean.

    Bounds, which serve nobody, are not among those whose callers feel something.
    """
    blocks = [_aligned(rows(outcomes, columns=columns)) for columns in TABLES]
    felt = [outcome for outcome in outcomes if outcome.figures["e2e_p99_s"] > 0]
    if felt:
        blocks.append(_aligned(rows(felt, columns=LATENCY)))
    if any(outcome.figures[name] for outcome in felt for _, name, _ in KEPT):
        blocks.append(_aligned(rows(felt, columns=KEPT)))
    legends = [LEGEND]
    if priced := [o for o in outcomes if "money_per_hour" in o.figures]:
        blocks.append(_aligned(rows(priced, columns=MONEY)))
        blocks.append(_aligned(rows(priced, columns=_by_kind(priced[0]))))
        legends.append(MONEY_LEGEND)
    if hit := [o for o in outcomes if "losses" in o.figures]:
        blocks.append(_aligned(rows(hit, columns=LOSSES)))
        legends.append(LOSS_LEGEND)
    return "\n\n".join([*blocks, "\n".join(legends)])


def _by_kind(outcome: PolicyFigures) -> Columns:
    """Two columns for each kind of devices."""
    found: list[tuple[str, str, str]] = []
    for name in outcome.figures:
        if kind := kind_of_mean(name):
            found.append((kind, name, "{:.2f}"))
            found.append(("peak", peak_of(kind), "{:.0f}"))
    return tuple(found)


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(
    outcomes: Sequence[PolicyFigures], *, columns: Columns = FLEET + COST + SERVICE
) -> str:
    """One Markdown table of the given columns."""
    lines = rows(outcomes, columns=columns)
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]
    )

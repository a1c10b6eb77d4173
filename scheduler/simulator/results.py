"""The results page: every setting that is worth knowing, as Markdown.

`make results` calls this; traces are used where their folder is given, and the built-in
synthetic workloads always.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mell_jax.scheduler.simulator.compare import (
    HAS_HEADROOM,
    REPACK,
    REPACK_LIVE,
    Outcome,
    run_best,
)
from mell_jax.scheduler.simulator.fleet import Clock
from mell_jax.scheduler.simulator.report import markdown
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import (
    Lognormal,
    Synthetic,
    Workload,
    draw,
    read_trace,
)

HEADROOMS = (0.0, 0.05, 0.1)
BASELINES = HAS_HEADROOM
OURS = ("mell", "consolidate")
BOUNDS = (REPACK, REPACK_LIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One table."""

    title: str
    settings: Settings
    trace: str | None = None  # None: the paper's synthetic workload
    rate_per_s: float = 1.0


def paper(*, name: str, capacity_tokens: int, decode: float, rate: float) -> Case:
    """The paper's setting: moves and prompts take no time."""
    return Case(
        title=f"The paper's setting, {name}, C = {capacity_tokens:,}",
        settings=Settings(
            capacity_tokens=capacity_tokens,
            decode_tokens_per_s=decode,
            prefill_tokens_per_s=math.inf,
            link_gbps=math.inf,
        ),
        rate_per_s=rate,
    )


def on_trace(kind: str, trace: str, capacity_tokens: int) -> Case:
    return Case(
        title=f"{kind}: {trace}, C = {capacity_tokens:,}",
        settings=Settings(capacity_tokens=capacity_tokens, link_gbps=math.inf),
        trace=trace,
    )


CASES = (
    paper(name="13B on A100-40G", capacity_tokens=20_000, decode=33.0, rate=3.6),
    paper(name="7B on 4090", capacity_tokens=16_000, decode=40.0, rate=2.5),
    on_trace("Headline", "mooncake_conversation", 38_000),
    on_trace("Headline", "mooncake_conversation", 100_000),
    on_trace("Headline", "mooncake_conversation", 161_000),
    on_trace("Headline", "servegen_deepseek_r1", 38_000),
    on_trace("Stress by growth", "len_bwb", 14_000),
    on_trace("Short requests", "azure_conv_2023", 14_000),
    on_trace("Control, classes cannot matter", "azure_conv_2023", 453_000),
    on_trace("Stress by bursts", "azure_code_2023", 14_000),
)


def load(case: Case, data: Path | None) -> Workload | None:
    """The workload of a case; None when its trace is not there."""
    if case.trace is None:
        whole = case.settings.capacity_tokens
        synthetic = Synthetic(
            rate_per_s=case.rate_per_s,
            span_s=1300.0,
            input_lengths=Lognormal(mean=1000, sigma=1.0),
            output_lengths=Lognormal(mean=2500, sigma=0.9),
        )
        return draw(
            synthetic,
            seed=0,
            max_input_tokens=int(0.9 * whole),
            max_tokens=int(0.98 * whole),
        )
    if data is None:
        return None
    paths = sorted(data.glob(f"{case.trace}*.csv.gz"))
    return read_trace(paths[0]) if paths else None


def verdict(outcomes: dict[str, Outcome]) -> str:
    """What a reader should take from a table, also when it is nothing."""
    devices = {name: o.figures["devices_mean"] for name, o in outcomes.items()}
    ours, ideal = outcomes["consolidate"].figures, devices[REPACK]
    mell = outcomes["mell"].figures
    moves = ours["migrations"] / max(1.0, mell["migrations"])
    tokens = ours["tokens_moved"] / max(1.0, mell["tokens_moved"])
    best = min(BASELINES, key=lambda name: devices[name])
    gap = devices[best] - ideal
    lines = [
        f"`consolidate` uses {devices['consolidate'] / ideal:.3f} of `repack` and "
        f"{ours['devices_mean'] / ours['lower_bound_mean']:.3f} of the bound, with "
        f"{moves:.2f} of `mell`'s moves and {tokens:.2f} of its tokens."
    ]
    if gap <= 0.05 * ideal:
        lines.append(
            f"The best baseline, `{best}`, is within 5% of `repack`: no gain is to be "
            "expected here."
        )
    else:
        closed = (devices[best] - devices["consolidate"]) / gap
        lines.append(
            f"The best baseline, `{best}`, is {gap / ideal:.0%} above `repack`; "
            f"`consolidate` closes {closed:.0%} of that."
        )
    return " ".join(lines)


def sections(
    *, data: Path | None, clock: Clock, say: Callable[[str], None]
) -> Iterator[str]:
    """One section for each case that can be run."""
    for case in CASES:
        workload = load(case, data)
        if workload is None:
            continue
        say(case.title)
        outcomes = {
            name: run_best(
                name,
                workload=workload,
                settings=case.settings,
                headrooms=HEADROOMS,
                look_s=None,
                clock=clock,
                progress=lambda served: None,
            )
            for name in (*BASELINES, *OURS, *BOUNDS)
        }
        yield (
            f"## {case.title}\n\n{len(workload):,} requests ({workload.name}).\n\n"
            f"{markdown(list(outcomes.values()))}\n\n{verdict(outcomes)}\n"
        )


HEAD = """# Results

Made by `make results DATA=<folder with traces>`; do not edit. Every baseline is shown
at its best headroom of 0, 5 and 10%. Devices are time averages, `/bound` is against L2
at the end of every epoch. Migrations take no time here, so that only decisions are
compared. `repack` counts what first fit decreasing needs at the end of an epoch and is
no fleet that could run; `repack_live` packs for free at every epoch and serves between
them. Decision times were taken on a machine shared with other work.
"""


def page(*, data: Path | None, clock: Clock, say: Callable[[str], None]) -> str:
    """The whole page."""
    return "\n".join([HEAD, *sections(data=data, clock=clock, say=say)])

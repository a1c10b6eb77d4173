"""The settings of the results page, and their workloads."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import (
    Lognormal,
    Quantiles,
    Synthetic,
    Workload,
    draw,
    quantile_lengths,
    read_trace,
)

PAPER_SPAN_S = 1300.0
HOUR_S = 3600.0
LINK_GBPS = 200.0  # of the runs in which moves take time
TWO_WEIGHTS = {ModelId("code"): 0.5, ModelId("conv"): 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One section of the page, or a line of its table of small fleets."""

    title: str
    settings: Settings
    trace: str | None = None
    lengths: str | None = None  # of this trace, drawn; neither: the paper's workload
    start_s: float = 0.0  # of the trace
    rate_per_s: float = 1.0
    seeds: tuple[int, ...] = (0,)
    span_s: float = HOUR_S  # of the trace that is used
    is_timed: bool = False  # also with moves that take time
    has_live: bool = False  # also with `repack_live`, which is slow in large fleets
    has_curve: bool = False  # also at other prices of a move
    is_small: bool = False  # a fleet of few devices
    is_chosen: bool = False  # constants of `consolidate` were chosen on it

    @property
    def is_papers(self) -> bool:
        """Tells whether the workload is the paper's; all of its policies run then."""
        return self.trace is None and self.lengths is None

    def timed(self) -> "Case":
        """The same with links that are bounded."""
        return replace(self, settings=replace(self.settings, link_gbps=LINK_GBPS))


def _paper(
    *,
    name: str,
    capacity_tokens: int,
    decode: float,
    rate: float,
    has_curve: bool = False,
) -> Case:
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
        seeds=(0, 1),
        span_s=PAPER_SPAN_S,
        has_curve=has_curve,
    )


def _headline(trace: str, capacity_tokens: int, *, has_curve: bool = False) -> Case:
    return Case(
        title=f"Headline: {trace}, C = {capacity_tokens:,}",
        settings=Settings(capacity_tokens=capacity_tokens, link_gbps=math.inf),
        trace=trace,
        is_timed=True,
        has_live=True,
        has_curve=has_curve,
    )


def _other(
    kind: str,
    trace: str,
    capacity_tokens: int,
    *,
    has_live: bool = False,
    has_curve: bool = True,
) -> Case:
    return Case(
        title=f"{kind}: {trace}, C = {capacity_tokens:,}",
        settings=Settings(capacity_tokens=capacity_tokens, link_gbps=math.inf),
        trace=trace,
        has_live=has_live,
        has_curve=has_curve,
    )


def _two_models(capacity_tokens: int) -> Case:
    settings = Settings(
        capacity_tokens=capacity_tokens, link_gbps=math.inf, weights=TWO_WEIGHTS
    )
    return Case(
        title=f"Two models: azure_merged_2023, C = {capacity_tokens:,}, "
        "code of half the memory per token",
        settings=settings,
        trace="azure_merged_2023",
    )


CASES = (
    _paper(
        name="13B on A100-40G",
        capacity_tokens=20_000,
        decode=33.0,
        rate=3.6,
        has_curve=True,
    ),
    _paper(name="7B on 4090", capacity_tokens=16_000, decode=40.0, rate=2.5),
    _headline("mooncake_conversation", 38_000, has_curve=True),
    _headline("mooncake_conversation", 100_000),
    _headline("mooncake_conversation", 161_000),
    _headline("servegen_deepseek_r1", 38_000, has_curve=True),
    _other("Stress by growth", "len_bwb", 14_000),
    _other("Short requests", "azure_conv_2023", 14_000, has_live=True),
    _two_models(14_000),
    _other("Stress by bursts", "azure_code_2023", 14_000),
    _other(
        "Control, one device is nearly enough",
        "azure_conv_2023",
        453_000,
        has_curve=False,
    ),
)


def _slice(
    trace: str, capacity_tokens: int, *, start_s: float, end_s: float, is_chosen: bool
) -> Case:
    settings = Settings(capacity_tokens=capacity_tokens, link_gbps=math.inf)
    if trace == "azure_merged_2023":
        settings = replace(settings, weights=TWO_WEIGHTS)
    return Case(
        title=f"{trace}, C = {capacity_tokens:,}, {start_s:.0f}-{end_s:.0f} s",
        settings=settings,
        trace=trace,
        start_s=start_s,
        span_s=end_s - start_s,
        is_timed=True,
        is_small=True,
        is_chosen=is_chosen,
    )


def _drawn(
    lengths: str, capacity_tokens: int, *, rate: float, seed: int, is_chosen: bool
) -> Case:
    return Case(
        title=f"lengths of {lengths}, C = {capacity_tokens:,}, {rate:g}/s, seed {seed}",
        settings=Settings(capacity_tokens=capacity_tokens, link_gbps=math.inf),
        lengths=lengths,
        rate_per_s=rate,
        seeds=(seed,),
        span_s=1200.0,
        is_timed=True,
        is_small=True,
        is_chosen=is_chosen,
    )


_SLICES: tuple[
    tuple[str, int, tuple[float, float], tuple[float, float]], ...
] = (  # trace, capacity, the slice that constants were chosen on, another
    ("mooncake_conversation", 100_000, (0, 900), (2400, 3600)),
    ("mooncake_conversation", 161_000, (900, 1800), (2400, 3600)),
    ("servegen_deepseek_r1", 100_000, (0, 1200), (2400, 3600)),
    ("azure_conv_2023", 14_000, (0, 900), (2400, 3600)),
    ("azure_code_2023", 14_000, (0, 1200), (1800, 3600)),
    ("azure_merged_2023", 14_000, (0, 700), (2400, 3600)),
    ("len_bwb", 28_000, (0, 1200), (2400, 3600)),
)
_LENGTHS = (  # lengths, capacity, rate, a seed that constants were chosen on, another
    ("mooncake_conversation", 38_000, 1.6, 11, 21),
    ("servegen_deepseek_r1", 38_000, 1.0, 12, 22),
    ("len_bwb", 14_000, 0.6, 13, 23),
    ("azure_conv_2023", 14_000, 5.0, None, 24),
    ("azure_code_2023", 14_000, 20.0, None, 25),
)
SMALL_CASES = tuple(
    _slice(trace, capacity, start_s=span[0], end_s=span[1], is_chosen=is_chosen)
    for trace, capacity, chosen, other in _SLICES
    for is_chosen, span in ((True, chosen), (False, other))
) + tuple(
    _drawn(lengths, capacity, rate=rate, seed=seed, is_chosen=is_chosen)
    for lengths, capacity, rate, chosen, other in _LENGTHS
    for is_chosen, seed in ((True, chosen), (False, other))
    if seed is not None
)


def find_trace(case: Case, data: Path | None) -> Path | None:
    """The file of a case's trace, None if it is not there or not needed."""
    if data is None or case.trace is None:
        return None
    return next(iter(sorted(data.glob(f"{case.trace}*.csv.gz"))), None)


def load(case: Case, *, data: Path | None, seed: int) -> Workload:
    """The workload of a case, cut to its span.

    Raises:
      ValueError: the case needs a trace that is not there.
    """
    if case.trace is not None:
        path = find_trace(case, data)
        if path is None:
            raise ValueError(f"there is no {case.trace}*.csv.gz in {data}")
        return read_trace(path).between(case.start_s, case.start_s + case.span_s)
    whole = case.settings.capacity_tokens
    given: Lognormal | Quantiles = Lognormal(mean=1000, sigma=1.0)
    made: Lognormal | Quantiles = Lognormal(mean=2500, sigma=0.9)
    if case.lengths is not None:
        given, made = quantile_lengths(case.lengths)
    synthetic = Synthetic(
        rate_per_s=case.rate_per_s,
        span_s=case.span_s,
        input_lengths=given,
        output_lengths=made,
    )
    return draw(
        synthetic,
        seed=seed,
        max_input_tokens=int(0.9 * whole),
        max_tokens=int(0.98 * whole),
    )

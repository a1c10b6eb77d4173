"""Says by arithmetic which options can meet an SLO at all, and which are worth trying.

A request that is alone on an instance is served as fast as ever; where too many miss a
bound even then, no number of instances helps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mell_jax.planner.load import Slo, held_by, least_s, lone_tpot_s, lone_ttft_s
from mell_jax.planner.option import Option
from mell_jax.scheduler.simulator.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The least bounds that an option can keep for the SLO's share of the requests."""

    option: Option
    ttft_s: float
    tpot_s: float

    def is_within(self, slo: Slo) -> bool:
        return self.ttft_s <= slo.ttft_s and self.tpot_s <= slo.tpot_s

    def reason(self, slo: Slo) -> str:
        """Says what is out of reach."""
        if math.isinf(self.ttft_s):
            return "too many requests are longer than an instance holds"
        missed = [
            f"{name} is {1e3 * least_s:,.1f} ms at least"
            for name, least_s, bound_s in (
                ("TTFT", self.ttft_s, slo.ttft_s),
                ("TPOT", self.tpot_s, slo.tpot_s),
            )
            if not (least_s <= bound_s)
        ]
        return ", ".join(missed)


def reach_of(option: Option, *, workload: Workload, slo: Slo) -> Reach:
    """Returns what requests would have if each were alone."""
    profile = option.profile
    held = held_by(workload, profile=profile)
    ttft_s, tpot_s = (
        least_s(of(workload, profile=profile), held=held, slo=slo)
        for of in (lone_ttft_s, lone_tpot_s)
    )
    return Reach(option=option, ttft_s=ttft_s, tpot_s=tpot_s)


def check_reach(reaches: Sequence[Reach], *, slo: Slo) -> None:
    """Finds out whether any option can meet the SLO.

    Raises:
      ValueError: none can; with the least bounds that there are, and on what.
    """
    if any(reach.is_within(slo) for reach in reaches):
        return
    bounds = (
        ("--slo_ttft_ms", slo.ttft_s, [reach.ttft_s for reach in reaches]),
        ("--slo_tpot_ms", slo.tpot_s, [reach.tpot_s for reach in reaches]),
    )
    told = [
        f"{flag}={1e3 * bound_s:g} is below {1e3 * min(least_s):.1f}, the least that "
        f"any of these devices reaches ({_name(reaches, least_s)})"
        for flag, bound_s, least_s in bounds
        if not (min(least_s) <= bound_s)
    ]
    if not told:
        both = min(
            reaches, key=lambda r: max(r.ttft_s / slo.ttft_s, r.tpot_s / slo.tpot_s)
        )
        told = [
            f"no device reaches both bounds: {both.option.name} comes nearest with "
            f"--slo_ttft_ms={1e3 * both.ttft_s:.1f} and "
            f"--slo_tpot_ms={1e3 * both.tpot_s:.1f}"
        ]
    raise ValueError(
        f"{'; '.join(told)}, for {slo.attainment:.1%} of the requests and each alone: "
        "allow more, or add faster devices"
    )


def _name(reaches: Sequence[Reach], least_s: Sequence[float]) -> str:
    """The option with the least of these latencies."""
    return reaches[least_s.index(min(least_s))].option.name


def one_width_each(
    options: Sequence[Option], *, fluid: Callable[[Option], float]
) -> list[Option]:
    """Returns of each kind the width whose fleet would cost least.

    Args:
      fluid: the instances that a fluid of the same mean load needs.
    """
    chosen: dict[str, tuple[tuple[float, float], Option]] = {}
    for option in options:
        needed = fluid(option)
        if math.isinf(needed):
            continue
        cost = (
            math.ceil(needed) * option.price_per_hour,
            needed * option.price_per_hour,
        )
        if option.kind not in chosen or cost < chosen[option.kind][0]:
            chosen[option.kind] = cost, option
    return [option for _, option in chosen.values()]

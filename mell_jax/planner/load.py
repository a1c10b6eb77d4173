"""A load is what requests ask of a device, before anything is simulated.

lone latencies    of a request that is alone: no fleet is below them
fluid instances   for an even load of the same mean: a search begins there
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.simulator.profile import Profile
from mell_jax.scheduler.simulator.workload import Workload

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """A share of the requests has each latency within its bound.

    A request that a device cannot hold counts as one that has neither.
    """

    ttft_s: float
    tpot_s: float
    attainment: float = 0.99

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            if not (getattr(self, name) > 0):
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not (0 < self.attainment <= 1):
            raise ValueError(f"attainment must be in (0, 1], got {self.attainment}")


def lone_ttft_s(workload: Workload, *, profile: Profile) -> Floats:
    """Returns the time [n] to the first token of requests that are alone."""
    tokens = workload.input_tokens.astype(np.float64)
    steps = np.ceil(tokens / profile.token_budget)
    pairs = tokens * (tokens + 1) / 2
    return np.asarray(
        steps * profile.step_time.fixed_s
        + tokens * profile.prefill_token_s
        + pairs * profile.prefill_pair_s / 1000
    )


def lone_tpot_s(workload: Workload, *, profile: Profile) -> Floats:
    """Returns the mean time [n] of further tokens of requests that are alone."""
    step = profile.step_time
    held = workload.input_tokens + workload.output_tokens / 2
    return np.asarray(
        step.fixed_s + step.row_s + step.page_s * held / profile.page_tokens
    )


def least_s(latencies_s: Floats, *, held: npt.NDArray[np.bool_], slo: Slo) -> float:
    """Returns the least bound that the SLO's share of the requests can have; inf if
    more than the rest is not `held` by the device."""
    latencies_s = np.where(held, latencies_s, np.inf)
    return float(np.quantile(latencies_s, slo.attainment, method="inverted_cdf"))


def held_by(workload: Workload, *, profile: Profile) -> npt.NDArray[np.bool_]:
    """Tells of each request [n] whether an instance can ever hold it."""
    tokens = workload.input_tokens + workload.output_tokens
    pages = -(-tokens // profile.page_tokens)
    return np.asarray(pages <= profile.capacity_tokens // profile.page_tokens)


def work_s(workload: Workload, *, profile: Profile) -> Floats:
    """Returns the instance seconds [n] that requests add to steps that run anyhow."""
    given = workload.input_tokens.astype(np.float64)
    made = workload.output_tokens.astype(np.float64)
    step = profile.step_time
    pages = (given + made / 2) / profile.page_tokens
    pairs = given * (given + 1) / 2
    return np.asarray(
        given * profile.prefill_token_s
        + pairs * profile.prefill_pair_s / 1000
        + made * (step.row_s + step.page_s * pages)
    )


def fluid_instances(
    workload: Workload, *, profile: Profile, tpot_s: float, span_s: float
) -> float:
    """Returns the instances that the mean load needs; inf if a step is too slow.

    With steps of T seconds an instance spends `fixed_s / T` of its time on what every
    step costs and the rest on `work_s`; by Little's law each output token is there for
    T, which says how many rows and KV tokens are held at a time. The best T of all up
    to `tpot_s` counts.
    """
    fixed_s = profile.step_time.fixed_s
    if not (tpot_s > fixed_s):
        return float("inf")
    given = workload.input_tokens.astype(np.float64)
    made = workload.output_tokens.astype(np.float64)
    busy = float(work_s(workload, profile=profile).sum()) / span_s
    rows_per_s = float(made.sum()) / span_s
    kv_per_s = float((made * (given + made / 2)).sum()) / span_s
    most_s = min(tpot_s, 100 * fixed_s) if fixed_s else tpot_s
    steps_s = np.linspace(fixed_s, most_s, 201)[1:]
    needs = np.maximum.reduce(
        [
            busy / (1 - fixed_s / steps_s),
            rows_per_s * steps_s / profile.max_rows,
            kv_per_s * steps_s / profile.capacity_tokens,
        ]
    )
    return float(needs.min())


def busiest(
    workload: Workload, *, profile: Profile, most_requests: int
) -> tuple[float, float]:
    """Returns begin and end, in seconds, of the stretch with the most work.

    Args:
      most_requests: that a stretch of the trace's mean rate has.
    """
    first, last = float(workload.arrival_s[0]), float(workload.arrival_s[-1])
    end_s = float(np.nextafter(last, np.inf))
    if len(workload) <= most_requests:
        return first, end_s
    span_s = (last - first) * most_requests / len(workload)
    work = np.concatenate([[0.0], np.cumsum(work_s(workload, profile=profile))])
    starts = workload.arrival_s[workload.arrival_s <= last - span_s]
    ends = np.searchsorted(workload.arrival_s, starts + span_s, side="right")
    sums = work[ends] - work[np.arange(len(starts))]
    begin_s = float(starts[int(np.argmax(sums))])
    return begin_s, min(begin_s + span_s, end_s)

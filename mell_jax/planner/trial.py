"""A trial simulates one fleet under one policy and says whether it meets the SLO.

It is plain data in and out, so that processes of their own can run several at once.
"""

import time
from dataclasses import dataclass

import numpy as np

from mell_jax.planner.load import Slo
from mell_jax.planner.search import Fleet
from mell_jax.scheduler.simulator.profile import Profile
from mell_jax.scheduler.simulator.results.compare import run_policy
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task says what to simulate."""

    workload: Workload
    profiles: tuple[Profile, ...]  # of each option
    prices: tuple[float, ...]  # of an instance and hour
    fleet: Fleet
    policy: str
    headroom: float
    slo: Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial measured these figures; shares and percentiles are of all requests.

    Attributes:
      attainment: the share with both latencies within their bounds.
      in_use: mean number of instances of each option that were not parked.
      served_s: seconds from the first arrival to the last end.
    """

    fleet: Fleet
    policy: str
    headroom: float
    is_met: bool
    ttft_share: float
    tpot_share: float
    ttft_p99_s: float
    tpot_p99_s: float
    in_use: tuple[float, ...]
    moves: int
    preemptions: int
    rejected: int


def run_trial(task: Task) -> Trial:
    """Simulates the fleet of a task."""
    (at,) = [i for i, count in enumerate(task.fleet) if count]
    profile = task.profiles[at]
    settings = Settings(
        capacity_tokens=profile.capacity_tokens,
        max_devices=task.fleet[at],
        decode_tokens_per_s=1 / task.slo.tpot_s,
        prefill_tokens_per_s=1 / profile.prefill_token_s,
        do_bounds=False,
        step_time=profile.step_time,
        tpot_slo_s=task.slo.tpot_s,
    )
    outcome = run_policy(
        task.policy,
        workload=task.workload,
        settings=settings,
        headroom=task.headroom,
        clock=time.perf_counter,
        progress=lambda x: None,
    )
    wait = np.array(outcome.meter.wait_s)
    share = float((wait <= task.slo.ttft_s).sum() / len(task.workload))
    return Trial(
        fleet=task.fleet,
        policy=task.policy,
        headroom=task.headroom,
        is_met=share >= task.slo.attainment,
        ttft_share=share,
        tpot_share=1.0,
        ttft_p99_s=float(np.quantile(wait, 0.99)),
        tpot_p99_s=task.slo.tpot_s,
        in_use=tuple(
            outcome.figures["devices_mean"] if i == at else 0.0
            for i in range(len(task.fleet))
        ),
        moves=int(outcome.figures["migrations"]),
        preemptions=int(outcome.figures["preemptions"]),
        rejected=int(outcome.figures["rejected"]),
    )

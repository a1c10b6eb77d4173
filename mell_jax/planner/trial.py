"""A trial simulates one fleet under one policy and says whether it meets the SLO.

It is plain data in and out, so that processes of their own can run several at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mell_jax.planner.load import Slo
from mell_jax.planner.search import Fleet
from mell_jax.scheduler.simulator.measure import RunMeter
from mell_jax.scheduler.simulator.profile import Profile
from mell_jax.scheduler.simulator.results.compare import run_policy
from mell_jax.scheduler.simulator.results.plot import binned
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task says what to simulate.

    Attributes:
      profiles: of an instance of each option.
      prices: of an instance of each option, per hour.
      fleet: instances of each option; one of them at least.
      fills: of each option, the part of an instance's KV memory that requests may take.
    """

    workload: Workload
    profiles: tuple[Profile, ...]
    prices: tuple[float, ...]
    fleet: Fleet
    policy: str
    headroom: float
    fills: tuple[float, ...]
    slo: Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial measured these figures; shares are of all requests, refused ones too.

    Attributes:
      within_share: the requests with both latencies within their bounds.
      in_use: mean number of instances of each option that were not parked.
      times_s: of the samples in `instances`, which are means between them.
    """

    fleet: Fleet
    policy: str
    fills: tuple[float, ...]
    is_met: bool
    within_share: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    in_use: tuple[float, ...]
    times_s: tuple[float, ...]
    instances: tuple[tuple[float, ...], ...]
    moves: int
    bytes_moved: float
    preemptions: int
    rejected: int


def run_trial(task: Task) -> Trial:
    """Simulates the fleet of a task."""
    outcome = run_policy(
        task.policy,
        workload=task.workload,
        settings=_settings(task),
        headroom=task.headroom,
        clock=lambda: 0.0,  # nobody asks how long decisions take
        progress=lambda served: None,
    )
    figures = outcome.figures
    within = figures["slo_attainment"] * figures["served_requests"]
    share = within / len(task.workload)
    times_s, instances = _timeline(outcome.meter, fleet=task.fleet)
    return Trial(
        fleet=task.fleet,
        policy=task.policy,
        fills=task.fills,
        is_met=share >= task.slo.attainment,
        within_share=share,
        ttft_p50_s=figures["ttft_p50_s"],
        ttft_p99_s=figures["ttft_p99_s"],
        tpot_p50_s=figures["tpot_p50_s"],
        tpot_p99_s=figures["tpot_p99_s"],
        in_use=_alone(figures["devices_mean"], fleet=task.fleet),
        times_s=times_s,
        instances=instances,
        moves=int(figures["migrations"]),
        bytes_moved=figures["bytes_moved"],
        preemptions=int(figures["preemptions"]),
        rejected=int(figures["rejected"]),
    )


def _settings(task: Task) -> Settings:
    (at,) = (number for number, count in enumerate(task.fleet) if count)
    profile = task.profiles[at]
    return Settings(
        capacity_tokens=int(task.fills[at] * profile.capacity_tokens),
        page_tokens=profile.page_tokens,
        decode_tokens_per_s=1 / _step_s(profile),
        prefill_tokens_per_s=1 / profile.prefill_token_s,
        link_gbps=8e-9 * profile.link_bytes_per_s,
        kv_bytes_per_token=profile.kv_bytes_per_token,
        max_devices=task.fleet[at],
        activation_s=profile.load_s,
        step_time=profile.step_time,
        steps=profile.speed,
        slo_ttft_s=task.slo.ttft_s,
        slo_tpot_s=task.slo.tpot_s,
        do_bounds=False,
    )


def _step_s(profile: Profile) -> float:
    """A decode step of an instance that is half full: what policies reckon with."""
    pages = profile.capacity_tokens // (2 * profile.page_tokens)
    return profile.decode_s(rows=profile.max_rows // 2, pages=pages)


def _timeline(
    meter: RunMeter, *, fleet: Fleet
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    times, devices, _ = binned(meter.epoch_s, meter.devices)
    return tuple(times.tolist()), tuple(
        _alone(count, fleet=fleet) for count in devices.tolist()
    )


def _alone(value: float, *, fleet: Sequence[int]) -> tuple[float, ...]:
    """One number for each option, that of the one that the fleet has."""
    return tuple(value if count else 0.0 for count in fleet)

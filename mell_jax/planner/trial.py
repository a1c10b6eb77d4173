"""A trial simulates one fleet under one policy and says whether it meets the SLO.

It is plain data in and out, so that processes of their own can run several at once.
"""

from dataclasses import dataclass, replace

from mell_jax.planner.load import Slo
from mell_jax.planner.search import Fleet
from mell_jax.scheduler.ids import KindId
from mell_jax.scheduler.simulator.devices import Devices
from mell_jax.scheduler.simulator.money import mean_of
from mell_jax.scheduler.simulator.profile import Profile
from mell_jax.scheduler.simulator.results.compare import run_policy
from mell_jax.scheduler.simulator.results.plot import binned
from mell_jax.scheduler.simulator.settings import Settings, settings_of, with_devices
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
      instances: of all options in use, means around `times_s`.
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
    instances: tuple[float, ...]
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
    times_s, instances, _ = binned(outcome.meter.epoch_s, outcome.meter.devices)
    return Trial(
        fleet=task.fleet,
        fills=task.fills,
        policy=task.policy,
        is_met=share >= task.slo.attainment,
        within_share=share,
        ttft_p50_s=figures["ttft_p50_s"],
        ttft_p99_s=figures["ttft_p99_s"],
        tpot_p50_s=figures["tpot_p50_s"],
        tpot_p99_s=figures["tpot_p99_s"],
        in_use=tuple(
            figures.get(mean_of(kind), 0.0) for kind in _kinds(len(task.fleet))
        ),
        times_s=tuple(times_s.tolist()),
        instances=tuple(instances.tolist()),
        moves=int(figures["migrations"]),
        bytes_moved=figures["bytes_moved"],
        preemptions=int(figures["preemptions"]),
        rejected=int(figures["rejected"]),
    )


def _kinds(count: int) -> list[KindId]:
    """What the simulator calls the options."""
    return [KindId(f"option {number}") for number in range(count)]


def _settings(task: Task) -> Settings:
    """The fleet, each kind by its own profile; a move goes at the slower end's link."""
    at = [number for number, count in enumerate(task.fleet) if count]
    first = task.profiles[at[0]]
    profiles = [task.profiles[number] for number in at]
    kinds = _kinds(len(task.fleet))
    link = min(profile.link_bytes_per_s for profile in profiles)
    devices = [
        Devices(
            kind=kinds[number],
            count=task.fleet[number],
            capacity_tokens=int(
                task.fills[number] * task.profiles[number].capacity_tokens
            ),
            speed=first.prefill_token_s / task.profiles[number].prefill_token_s,
            price_per_hour=task.prices[number],
            profile=task.profiles[number],
        )
        for number in at
    ]
    settings = replace(
        settings_of(replace(first, link_bytes_per_s=link)),
        slo_ttft_s=task.slo.ttft_s,
        slo_tpot_s=task.slo.tpot_s,
        do_bounds=False,
    )
    return with_devices(settings, devices)

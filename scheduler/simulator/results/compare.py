"""Runs several policies over one workload, each at its best headroom."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.policies.mell import Mell
from mell_jax.scheduler.simulator.fleet import Clock, Driven, SimulatedFleet
from mell_jax.scheduler.simulator.measure import RunMeter
from mell_jax.scheduler.simulator.record import EventLog
from mell_jax.scheduler.simulator.repack import run_repack
from mell_jax.scheduler.simulator.repack_live import Repacker
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload

REPACK = "repack"  # a bound: counts at epochs only
REPACK_LIVE = "repack_live"
HAS_HEADROOM = (
    "best_fit",
    "worst_fit",
    "load_balance",
    "llumnix_consolidation",
    "pinned_best_fit",
    "pinned_spread",
    "reserve_peak",
    "spread",
)
ONE_SIZE = ("mell", REPACK, REPACK_LIVE)  # of devices: shares of one capacity
BASE = "best_fit"  # whose money is compared with
LINK_SHARE = 0.5  # of a link that consolidation may use


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """One policy at one headroom."""

    policy: str
    headroom: float
    figures: dict[str, float]
    meter: RunMeter


OpenLog = Callable[[str, PolicyConfig], EventLog | None]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """An operator chooses these; each policy reads those that it has."""

    look_s: float | None = None
    move_price_s: float = 0.6
    place_wait_s: float = 0.1
    reserve: int = 0


DEFAULT = Knobs()


def policy_config(
    settings: Settings, *, headroom: float, knobs: Knobs = DEFAULT
) -> PolicyConfig:
    """Returns what a policy is told of the simulated fleet."""
    return PolicyConfig(
        headroom=headroom,
        look_s=knobs.look_s,
        move_price_s=knobs.move_price_s,
        place_wait_s=knobs.place_wait_s,
        reserve=knobs.reserve,
        epoch_s=settings.epoch_s,
        devices_per_host=settings.devices_per_host,
        link_bytes_per_s=LINK_SHARE * settings.narrowest_gbps * 1e9 / 8,
        prefill_tokens_per_s=settings.replay_tokens_per_s,
    )


def check_policies(names: Sequence[str]) -> None:
    """Raises ValueError for a name that is none of a policy, or for no name."""
    known = [*POLICIES, REPACK, REPACK_LIVE]
    if not names:
        raise ValueError(f"no policy is given; there are {sorted(known)}")
    for name in names:
        if name not in known:
            raise ValueError(f"no policy is called {name!r}; there are {sorted(known)}")


def check_kinds(names: Sequence[str], *, settings: Settings) -> None:
    """Raises ValueError for a policy that cannot do with devices of several sizes."""
    sizes = {own.capacity_tokens for own in settings.offered}
    wrong = [name for name in names if name in ONE_SIZE]
    if len(sizes) > 1 and wrong:
        raise ValueError(
            f"{', '.join(wrong)} reckons with devices of one size, but here they hold "
            f"{sorted(sizes)} tokens: leave it out"
        )


def note_savings(outcomes: Sequence[RunOutcome]) -> None:
    """Adds what each policy saves beside `best_fit`, if there are prices and it ran."""
    paid = {
        outcome.policy: outcome.figures["money_per_hour"]
        for outcome in outcomes
        if "money_per_hour" in outcome.figures
    }
    base = paid.get(BASE)
    for outcome in outcomes:
        if base and outcome.policy in paid:
            saved = base - paid[outcome.policy]
            outcome.figures["money_saved_per_hour"] = saved
            outcome.figures["money_saved_share"] = saved / base


def run_policy(
    name: str,
    *,
    workload: Workload,
    settings: Settings,
    headroom: float,
    clock: Clock,
    progress: Progress,
    knobs: Knobs = DEFAULT,
    open_log: OpenLog = lambda name, config: None,
) -> RunOutcome:
    """One run."""
    driven: Driven
    if name == REPACK:
        meter = run_repack(workload, settings=settings, progress=progress)
        return _outcome(name, meter, workload=workload, headroom=headroom)
    policy, log = None, None
    if name == REPACK_LIVE:
        _refuse_real(workload, settings)
        driven = Repacker(settings.models())
    else:
        config = policy_config(settings, headroom=headroom, knobs=knobs)
        policy = POLICIES[name](config)
        driven = Machine(
            models=settings.models(), policy=policy, kinds=settings.kinds()
        )
        log = open_log(name, config)
    fleet = SimulatedFleet(
        driven, workload=workload, settings=settings, clock=clock, log=log
    )
    meter = fleet.run(progress=progress)
    outcome = _outcome(name, meter, workload=workload, headroom=headroom)
    if log is not None:
        log.ended(outcome.figures)
    if isinstance(policy, Mell):
        outcome.figures.update(policy.figures())
    return outcome


def _refuse_real(workload: Workload, settings: Settings) -> None:
    """Raises ValueError where it matters which device computes what, and since when."""
    if settings.steps is not None or workload.blocks is not None:
        raise ValueError(
            f"{REPACK_LIVE} has its requests elsewhere at once, so it makes no steps "
            f"and shares no prefixes: leave it out, or --profile and --blocks"
        )


def _outcome(
    name: str, meter: RunMeter, *, workload: Workload, headroom: float
) -> RunOutcome:
    figures = meter.summary(requests=len(workload) - meter.rejected)
    return RunOutcome(policy=name, headroom=headroom, figures=figures, meter=meter)


def run_best(
    name: str,
    *,
    workload: Workload,
    settings: Settings,
    headrooms: Sequence[float],
    clock: Clock,
    progress: Progress,
    knobs: Knobs = DEFAULT,
    open_log: OpenLog = lambda name, config: None,
) -> RunOutcome:
    """The run with the fewest devices over `headrooms`, for policies that have one.

    Where devices have prices it is the run that costs least.
    """
    outcomes = [
        run_policy(
            name,
            workload=workload,
            settings=settings,
            headroom=headroom,
            knobs=knobs,
            clock=clock,
            progress=progress,
            open_log=open_log,
        )
        for headroom in (headrooms if name in HAS_HEADROOM else [0.0])
    ]
    figure = "money_per_hour" if settings.devices else "devices_mean"
    return min(outcomes, key=lambda outcome: outcome.figures.get(figure, math.inf))

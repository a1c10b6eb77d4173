"""`--suite=profile` measures an engine here and writes what the simulator is to know.

Requests keep all instances equally busy, with few and many rows and short and long
contexts; every step is seen, and the speeds are fitted to them. Links and loading are
those that the fleet measured when it was built.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from mell_jax.bench.profile_fit import FittedSpeed, Residuals, fit_speed
from mell_jax.bench.report import BenchReport, table
from mell_jax.bench.shapes import model_directory
from mell_jax.bench.step_load import LoadPoint, LoadSettings, StepLoad, choose_points
from mell_jax.bench.step_watch import StepWatch
from mell_jax.engine.build import build_engine, settle_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.simulator.profile import Profile, write_profile


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings:
    """The settings are those of one profile.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    engine: EngineConfig
    profile: Path  # is written
    load: LoadSettings = field(default_factory=LoadSettings)

    def __post_init__(self) -> None:
        if not self.profile.absolute().parent.is_dir():
            raise ValueError(
                f"profile is to be written to {self.profile}, but there is no folder "
                f"{self.profile.absolute().parent}: make it, or give another file"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A profile was measured; the speed says how well it fits."""

    profile: Profile
    speed: FittedSpeed


def run_profile(settings: ProfileSettings, *, progress: bool) -> BenchReport:
    """Builds the engine, measures it and writes the profile.

    Raises:
      ValueError: the model or its configuration cannot be used, or the context is too
        short.
      OSError: the profile cannot be written.
    """
    with model_directory(settings.engine.model) as directory:
        name = settings.engine.served_model_name or settings.engine.model
        engine = dataclasses.replace(
            settings.engine, model=str(directory), served_model_name=name
        )
        token_budget = settle_engine(engine).token_budget
        built = build_engine(engine, progress=progress)
    compiled = built.compilations.count
    measured = measure_profile(
        built.engine, settings.load, token_budget=token_budget, progress=progress
    )
    compiled = built.compilations.count - compiled
    write_profile(settings.profile, profile=measured.profile)
    return BenchReport(
        suite="profile",
        text=f"{render(measured)}\nwritten to {settings.profile}",
        results={
            "profile": _plain(measured.profile),
            "decodes": dataclasses.asdict(measured.speed.decodes),
            "prefills": dataclasses.asdict(measured.speed.prefills),
            "hiccups": measured.speed.hiccups,
            "compilations": compiled,
        },
    )


def measure_profile(
    fleet: Fleet,
    settings: LoadSettings,
    *,
    token_budget: int,
    progress: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Measures a fleet that does nothing else; it is of no further use.

    Args:
      fleet: new, with one model; of layers with a window a profile knows nothing.
      settings: of the load.
      token_budget: of a step.
      progress: shows a bar.
      clock: seconds, by which steps are timed.

    Raises:
      ValueError: the context is too short for a prompt and its steps.
    """
    info = fleet.infos[0]
    spec = fleet.machine.ledger.spec(ModelId(info.model_name))
    instances = len(fleet.instance_pool.devices)
    watch = StepWatch(page_tokens=info.page_tokens)
    load = StepLoad(
        fleet, instances=instances, watch=watch, seed=settings.seed, clock=clock
    )
    points = choose_points(
        max_rows=info.max_rows,
        context=info.max_model_len,
        steps=settings.steps,
        capacity_tokens=spec.capacity_pages * spec.page_tokens // 2,  # they grow
        most_tokens=settings.most_tokens,
    )
    _warm_up(load, watch)
    turns = points * settings.repeats
    for point in tqdm(turns, unit="point", desc="profile", disable=not progress):
        load.run(point, steps=settings.steps)
    speed = fit_speed(watch.samples)
    links = fleet.profile.bytes_per_s.values()
    groups = spec.cache.num_groups
    return Measured(
        speed=speed,
        profile=Profile(
            name=info.model_name,
            step_time=speed.step_time,
            prefill_token_s=speed.prefill_token_s,
            prefill_pair_s=speed.prefill_pair_s,
            token_budget=token_budget,
            max_rows=info.max_rows,
            capacity_tokens=spec.capacity_pages * spec.page_tokens // groups,
            page_tokens=spec.page_tokens,
            kv_bytes_per_token=round(spec.page_bytes * groups / spec.page_tokens),
            load_s=spec.load_s,
            link_bytes_per_s=min(links, default=math.inf),
            plans_ahead=True,
        ),
    )


def render(measured: Measured) -> str:
    """Returns what a person wants to know: the speeds, and how well they fit."""
    profile, speed = measured.profile, measured.speed
    link = profile.link_bytes_per_s
    rows = [
        ("a decode step, ms", 1e3 * speed.step_time.fixed_s),
        ("more by row, ms", 1e3 * speed.step_time.row_s),
        ("more by page, us", 1e6 * speed.step_time.page_s),
        ("more by prefilled token, us", 1e6 * speed.prefill_token_s),
        ("  and by 1,000 tokens before it, us", 1e6 * speed.prefill_pair_s),
        ("loading, s", profile.load_s),
        ("link, GB/s", "not measured" if link == math.inf else link / 1e9),
        ("KV capacity, tokens", profile.capacity_tokens),
        ("rows at most", profile.max_rows),
        ("tokens of a step at most", profile.token_budget),
    ]
    fits = [
        _fit_row("decode", speed.decodes),
        _fit_row("with prefill", speed.prefills),
    ]
    header = ("steps", "seen", "fit, all", "one, p50", "p90")
    return "\n".join(
        [
            table((profile.name, ""), rows),
            "",
            table(header, fits),
            f"{speed.hiccups} steps took several times as long and were left out",
        ]
    )


def _warm_up(load: StepLoad, watch: StepWatch) -> None:
    """Opens the instances and makes first calls, which are not measured."""
    load.run(LoadPoint(rows=1, context=8), steps=8)
    watch.samples.clear()


def _fit_row(name: str, found: Residuals) -> tuple[object, ...]:
    return (
        name,
        found.steps,
        f"{100 * found.total:+.1f}%",
        f"{100 * found.p50:.1f}%",
        f"{100 * found.p90:.1f}%",
    )


def _plain(profile: Profile) -> dict[str, object]:
    """For JSON, which knows no infinity."""
    plain = dataclasses.asdict(profile)
    if profile.link_bytes_per_s == math.inf:
        plain["link_bytes_per_s"] = None
    return plain

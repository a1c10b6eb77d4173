"""`--suite=overhead` measures what the host adds to a step, and where it goes.

All rows decode and nobody comes or goes. The device works on step k while the host
plans step k + 1, so host time costs only what the device does not hide:

    overhead = engine step - bare step

with both as medians of the time from one step's results to the next one's. They take
turns, and the overhead is the median over the turns, so that a change of the machine's
speed between turns does not look like one. Bare steps are what the engine had just sent
to the device, sent again in a loop that does nothing else and fetches tokens one step
late, as the engine does. The breakdown is a separate turn with timers around the
engine's methods; it sums to the engine's step, waiting for the device included:

    plan      choose rows, chunks and pages            (Batcher.plan)
    pack      fill the step's vector                   (Instance.launch less the others)
    dispatch  hand the vector to the compiled step     (DeviceWorker.dispatch)
    wait      until the step before has its tokens     (Pending.tokens)
    commit    bring the tokens in                      (Batcher.commit)
    frame     stop rules and what to say               (Instance.land without those)
    other     the rest of `Fleet.step`
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.engine.harness import EngineHarness
from benchmarks.engine.timers import StepClock, replaced
from mell_jax.bench.report import BenchReport, table
from mell_jax.bench.shapes import model_directory
from mell_jax.bench.stats import Summary, median, summarize
from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig

PARTS = ("plan", "pack", "dispatch", "wait", "commit", "frame", "other")
SETTLING_STEPS = 10  # before those that count
PREFILL_STEPS = 64
"""Tokens that the first row may get before the last one is prefilled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadSettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    engine: EngineConfig  # its model may be "random:SHAPE"
    batches: tuple[int, ...] = (32, 256)
    prompt_tokens: int = 16
    steps: int = 100  # per turn
    repeats: int = 6  # turns
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.batches and min(self.batches) >= 1):
            raise ValueError(f"batch_sizes must be positive, got {self.batches}")
        for name in ("prompt_tokens", "steps", "repeats"):
            if not (getattr(self, name) >= 1):
                raise ValueError(f"{name} must be at least 1")

    @property
    def new_tokens(self) -> int:
        """Returns enough that no row ends before the last step that counts."""
        return self.steps + SETTLING_STEPS + PREFILL_STEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadResult:
    """A result is of one batch size, in milliseconds per step."""

    batch: int
    engine_ms: Summary
    bare_ms: Summary
    overhead_ms: float  # median over the turns
    parts_ms: dict[str, float]  # medians


def run_overhead(settings: OverheadSettings, *, progress: bool) -> BenchReport:
    """Measures all batch sizes.

    Raises:
      ValueError: the model cannot be used, or has too short a context.
    """
    with model_directory(settings.engine.model) as directory:
        engine = dataclasses.replace(
            settings.engine,
            model=str(directory),
            max_rows=max(settings.batches),
            decode_rows=settings.batches,
            max_model_len=settings.engine.max_model_len
            or settings.prompt_tokens + settings.new_tokens,
            prefix_cache=False,
        )
        harness = EngineHarness(build_engine(engine, progress=progress))
        turns = len(settings.batches) * (settings.repeats + 1)
        bar = tqdm(total=turns, desc="overhead", unit="turn", disable=not progress)
        with contextlib.closing(bar):
            results = [
                measure(harness, settings, batch=batch, on_turn=bar.update)
                for batch in settings.batches
            ]
    total = settings.steps * settings.repeats
    about = f"{settings.engine.model}: medians of {total} decode steps, milliseconds"
    return BenchReport(
        suite="overhead",
        text=f"{about}\n\n{render(results)}",
        results={"batches": [dataclasses.asdict(result) for result in results]},
    )


def breakdown(laps: dict[str, list[float]]) -> dict[str, list[float]]:
    """Returns seconds of each part of each step, from the calls that contain each
    other.

    Args:
      laps: of "step", "launch", "dispatch", "plan", "land", "wait" and "commit", a
        value per step.
    """
    columns = {name: np.array(values) for name, values in laps.items()}
    inside = columns["wait"] + columns["commit"]
    parts = {
        "plan": columns["plan"],
        "pack": columns["launch"] - columns["plan"] - columns["dispatch"],
        "dispatch": columns["dispatch"],
        "wait": columns["wait"],
        "commit": columns["commit"],
        "frame": columns["land"] - inside,
        "other": columns["step"] - columns["launch"] - columns["land"],
    }
    return {name: parts[name].tolist() for name in PARTS}


def render(results: Sequence[OverheadResult]) -> str:
    """Steps and overhead, and below them where the time of a step goes."""
    steps = table(
        ("batch", "engine", "bare", "overhead", "share", "engine p99"),
        [
            (
                str(result.batch),
                result.engine_ms.median,
                result.bare_ms.median,
                result.overhead_ms,
                f"{100 * result.overhead_ms / result.engine_ms.median:.1f}%",
                result.engine_ms.p99,
            )
            for result in results
        ],
    )
    parts = table(
        ("batch", *PARTS),
        [
            (str(result.batch), *(result.parts_ms[name] for name in PARTS))
            for result in results
        ],
    )
    return f"{steps}\n\n{parts}"


def measure(
    harness: EngineHarness,
    settings: OverheadSettings,
    *,
    batch: int,
    on_turn: Callable[[], object],
) -> OverheadResult:
    engine_ms: list[float] = []
    bare_ms: list[float] = []
    overheads_ms: list[float] = []
    for _ in range(settings.repeats):
        with harness.recording() as sent:
            times = list(_steady_steps(harness, settings, batch=batch))
        ours = [1e3 * (after - before) for before, after in itertools.pairwise(times)]
        # The last step was in flight when the turn ended, and not measured.
        bare = [1e3 * s for s in harness.replay(sent[-settings.steps - 2 : -1])]
        overheads_ms.append(median(ours) - median(bare))
        engine_ms += ours
        bare_ms += bare
        on_turn()
    clock = StepClock()
    with watched(harness, clock):
        for _ in _steady_steps(harness, settings, batch=batch, on_steady=clock.reset):
            pass
    on_turn()
    parts = breakdown(_whole_steps(clock, count=settings.steps))
    return OverheadResult(
        batch=batch,
        engine_ms=summarize(engine_ms),
        bare_ms=summarize(bare_ms),
        overhead_ms=median(overheads_ms),
        parts_ms={name: 1e3 * median(values) for name, values in parts.items()},
    )


def _steady_steps(
    harness: EngineHarness,
    settings: OverheadSettings,
    *,
    batch: int,
    on_steady: Callable[[], None] = lambda: None,
) -> Iterator[float]:
    """When each of `steps` + 1 frames came in which all rows decode.

    Raises:
      ValueError: rows ended before that.
    """
    rng = np.random.default_rng(settings.seed)
    shape = (batch, settings.prompt_tokens)
    vocab_size = harness.engine.infos[0].vocab_size
    prompts = rng.integers(0, vocab_size, shape, dtype=np.int32)
    harness.submit(list(prompts), new_tokens=settings.new_tokens)
    full = 0
    for frame in harness.run():
        full += len(frame.handles) == batch
        if full == SETTLING_STEPS:
            on_steady()
        if SETTLING_STEPS <= full <= SETTLING_STEPS + settings.steps:
            yield frame.time_s
        if full == SETTLING_STEPS + settings.steps:
            break
    else:
        raise ValueError(
            f"the first of {batch} rows ended before the last was prefilled: take "
            "shorter prompts or a larger token_budget"
        )
    harness.clear()


@contextlib.contextmanager
def watched(harness: EngineHarness, clock: StepClock) -> Iterator[None]:
    """Yields timers around everything that a step calls."""
    dispatch = clock.timed(harness.worker.dispatch, name="dispatch")

    def dispatch_and_watch(*args: Any, **kwargs: Any) -> Any:
        pending = dispatch(*args, **kwargs)
        pending.tokens = clock.timed(pending.tokens, name="wait")
        return pending

    instance = harness.instance
    with (
        replaced(harness.worker, "dispatch", dispatch_and_watch),
        clock.watch(harness.engine, "step"),
        clock.watch(instance, "launch"),
        clock.watch(instance.batcher, "plan"),
        clock.watch(instance, "land"),
        clock.watch(instance.batcher, "commit"),
    ):
        yield


def _whole_steps(clock: StepClock, *, count: int) -> dict[str, list[float]]:
    """The first `count` calls of each method; later ones belong to the turn's end."""
    return {name: values[:count] for name, values in clock.laps.items()}

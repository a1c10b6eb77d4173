"""`--suite=deterministic` measures what it costs that numbers depend on nobody else.

The same requests in turns by an engine as it is usually set up, and by deterministic
ones of several step sizes: prompts alone, then decodes of each batch.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mell_jax.bench.report import BenchReport, table
from mell_jax.bench.stats import median
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.params import SamplingParams
from mell_jax.llm import LLM

USUAL = "usual"
FIRST_ID = 3  # below it are special tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class DeterministicSettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range.
    """

    engine: EngineConfig
    batches: tuple[int, ...] = (1, 32)
    step_tokens: tuple[int, ...] = (32, 128)  # of the deterministic engines
    prompts: int = 16
    prompt_tokens: int = 400
    new_tokens: int = 64
    repeats: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("prompts", "prompt_tokens", "new_tokens", "repeats"):
            if not (getattr(self, name) >= 1):
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )


def run_deterministic(
    settings: DeterministicSettings, *, progress: bool
) -> BenchReport:
    """Measures tokens/s of each engine, in turns.

    Raises:
      ValueError: the model cannot be used, or holds none of the prompts.
    """
    with contextlib.ExitStack() as stack:
        llms = {
            name: stack.enter_context(_llm(config, progress=progress))
            for name, config in _configs(settings).items()
        }
        speeds = _measure(llms, settings=settings, progress=progress)
    medians = {
        case: {name: median(runs) for name, runs in each.items()}
        for case, each in speeds.items()
    }
    ratios = {
        case: {name: value / each[USUAL] for name, value in each.items()}
        for case, each in medians.items()
    }
    return BenchReport(
        suite="deterministic",
        text=f"{settings.engine.model}: tokens/s, medians of {settings.repeats}, and "
        f"what part they are of the usual\n\n{render(medians, ratios=ratios)}",
        results={"tokens_per_s": medians, "ratios": ratios, "runs": speeds},
    )


def render(
    medians: Mapping[str, Mapping[str, float]],
    *,
    ratios: Mapping[str, Mapping[str, float]],
) -> str:
    """Returns a row for each case, with two columns for each engine."""
    names = list(next(iter(medians.values())))
    return table(
        ("case", *(word for name in names for word in (name, "ratio"))),
        [
            (case, *(v for name in names for v in (each[name], ratios[case][name])))
            for case, each in medians.items()
        ],
    )


def _configs(settings: DeterministicSettings) -> dict[str, EngineConfig]:
    found = {USUAL: settings.engine}
    for tokens in settings.step_tokens:
        found[f"steps of {tokens}"] = dataclasses.replace(
            settings.engine, deterministic=True, token_budget=tokens
        )
    return found


def _llm(config: EngineConfig, *, progress: bool) -> LLM:
    options = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name != "model"
    }
    return LLM(config.model, progress=progress, **options)


def _measure(
    llms: Mapping[str, LLM], *, settings: DeterministicSettings, progress: bool
) -> dict[str, dict[str, list[float]]]:
    rng = np.random.default_rng(settings.seed)
    size = settings.prompt_tokens
    cases: dict[str, Callable[[LLM], float]] = {
        "prefill": functools.partial(
            _speed, rng=rng, rows=settings.prompts, size=size, new=1, counted=size
        )
    }
    for rows in settings.batches:
        new = settings.new_tokens
        cases[f"decode of {rows}"] = functools.partial(
            _speed, rng=rng, rows=rows, size=8, new=new, counted=new
        )
    found: dict[str, dict[str, list[float]]] = {
        case: {name: [] for name in llms} for case in cases
    }
    turns = [(c, n) for c in cases for _ in range(settings.repeats) for n in llms]
    for case, name in tqdm(turns, unit="turn", disable=not progress):
        found[case][name].append(cases[case](llms[name]))
    return found


def _speed(
    llm: LLM,
    *,
    rng: np.random.Generator,
    rows: int,
    size: int,
    new: int,
    counted: int,
) -> float:
    """Returns tokens/s of `rows` prompts of `size`, of which `counted` count each."""
    shape = (rows, size)
    prompts = rng.integers(FIRST_ID, llm.info.vocab_size, shape).tolist()
    params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True)
    start_s = time.perf_counter()
    llm.generate(prompts, params)
    return rows * counted / (time.perf_counter() - start_s)

"""`--suite=decode` compares the engine, its bare step, transformers and llama.cpp.

They take turns, in one run, with the others idle; figures are medians over the turns.
Everything is float32 unless `--dtype` says otherwise for our side; llama.cpp keeps keys
and values in float16.

    engine        whole requests through `Fleet.step`: plan, pack, step, stop rules
    bare          the steps from the middle of the engine's decoding, sent again to the
                  compiled step in a loop that does nothing else
    transformers  `generate` on a static batch, with the faster kind of attention
    llama.cpp     its server without HTTP, with a slot for each sequence of a batch
                  that starts together, and with the faster kind of attention

What prefill, decode and overall speed mean is in `batch`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.engine.batch import (
    BatchRun,
    BatchSpeeds,
    BatchStep,
    count_equal,
    count_full,
    speeds_of,
)
from benchmarks.engine.harness import EngineHarness
from benchmarks.engine.side_process import (
    LLAMA_CPP,
    TRANSFORMERS,
    SideProcess,
    start_side,
)
from mell_jax.bench.machine import num_cpus
from mell_jax.bench.report import BenchReport, table
from mell_jax.bench.shapes import count_parameters, model_directory
from mell_jax.bench.stats import median
from mell_jax.bench.workload import Int32Array
from mell_jax.checkpoints import read_spec
from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.worker.device import StepCall

TRIAL_TOKENS = 8  # with which the faster kind of attention is found
SIDES = (TRANSFORMERS, LLAMA_CPP)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSettings:
    """The settings are those of one comparison.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    engine: EngineConfig  # its model may be "random:SHAPE"
    batches: tuple[int, ...] = (1, 8, 32)
    prompt_tokens: int = 512
    new_tokens: int = 128
    repeats: int = 3
    bare_steps: int = 64
    torch_python: str = ""  # empty: without transformers
    llama_python: str = ""  # empty: without llama.cpp
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.batches and min(self.batches) >= 1):
            raise ValueError(f"batch_sizes must be positive, got {self.batches}")
        if not (self.new_tokens >= 2):
            raise ValueError(f"new_tokens must be at least 2, got {self.new_tokens}")
        for name in ("prompt_tokens", "repeats", "bare_steps"):
            if not (getattr(self, name) >= 1):
                raise ValueError(f"{name} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SideResult:
    """The result is that of another program; medians over the turns, in tokens/s."""

    speeds: BatchSpeeds
    attention: str
    equal_tokens: float  # share of the engine's tokens that it chose too


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """The results are medians over the turns, in tokens/s."""

    batch: int
    engine: BatchSpeeds
    bare_decode: float | None
    sides: dict[str, SideResult]  # by the program's name


def run_decode(settings: DecodeSettings, *, progress: bool) -> BenchReport:
    """Measures all batch sizes.

    Raises:
      ValueError: the model does not fit, or has too short a context.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(model_directory(settings.engine.model))
        config = read_spec(directory).config
        harness = EngineHarness(
            build_engine(_engine_config(settings, directory), progress=progress)
        )
        sides, notes = _start_sides(settings, directory, stack)
        bench = Bench(harness, sides, settings=settings, vocab_size=config.vocab_size)
        turns = len(settings.batches) * settings.repeats
        bar = tqdm(total=turns, desc="decode", unit="turn", disable=not progress)
        with contextlib.closing(bar):
            results = [bench.measure(b, on_turn=bar.update) for b in settings.batches]
    millions = count_parameters(config) / 1e6
    about = (
        f"{settings.engine.model}: {millions:.0f}M parameters, prompts of "
        f"{settings.prompt_tokens}, {settings.new_tokens} new tokens, "
        f"{num_cpus()} CPUs, median of {settings.repeats}"
    )
    return BenchReport(
        suite="decode",
        text="\n".join([about, *notes.values(), "", render(results)]),
        results={
            "parameters": count_parameters(config),
            "sides": notes | {side.kind.name: side.versions for side in sides},
            "batches": [dataclasses.asdict(result) for result in results],
        },
    )


class Bench:
    """A bench has the contestants, ready to take turns."""

    def __init__(
        self,
        harness: EngineHarness,
        sides: Sequence[SideProcess],
        *,
        settings: DecodeSettings,
        vocab_size: int,
    ) -> None:
        self._rig = harness
        self._sides = sides
        self._settings = settings
        self._vocab_size = vocab_size
        self._rng = np.random.default_rng(settings.seed)

    def measure(self, batch: int, *, on_turn: Callable[[], object]) -> BatchResult:
        """Returns all turns at one batch size."""
        settings = self._settings
        attentions = [self._faster_attention(side, batch) for side in self._sides]
        self._run_engine(self._prompts(batch), new_tokens=2)  # a warm cache, at least
        ours: list[BatchRun] = []
        theirs: list[list[BatchRun]] = [[] for _ in self._sides]
        bare: list[float] = []
        for _ in range(settings.repeats):
            prompts = self._prompts(batch)
            with self._rig.recording() as sent:
                ours.append(self._run_engine(prompts, new_tokens=settings.new_tokens))
            steps = self._middle_steps(sent, ours[-1])
            if len(steps) > 1:
                times_s = self._rig.replay(steps)
                bare.append(batch * len(times_s) / sum(times_s))
            for side, attention, runs in zip(
                self._sides, attentions, theirs, strict=True
            ):
                runs.append(
                    side.generate(
                        prompts, new_tokens=settings.new_tokens, attention=attention
                    )
                )
            on_turn()
        return BatchResult(
            batch=batch,
            engine=middle([speeds_of(run) for run in ours]),
            bare_decode=median(bare) if bare else None,
            sides={
                side.kind.name: beside(ours, runs, attention=attention)
                for side, attention, runs in zip(
                    self._sides, attentions, theirs, strict=True
                )
            },
        )

    def _middle_steps(
        self, sent: Sequence[StepCall], run: BatchRun
    ) -> Sequence[StepCall]:
        """Takes as many steps as wanted, from the middle of those that decode all rows.

        All rows decode from the first step on that prefills nothing. The step before
        it, which prefilled the last row, is full too, and was not recorded.
        """
        full = sent[: count_full(run) - 1]
        skipped = max(0, len(full) - self._settings.bare_steps - 1) // 2
        return full[skipped : len(full) - skipped]

    def _faster_attention(self, side: SideProcess, batch: int) -> str:
        """Tries all kinds, twice, since the first time is slower."""
        prompts = self._prompts(batch)
        kinds = side.kind.attentions
        times_s = {}
        for attention in (*kinds, *kinds):
            run = side.generate(prompts, new_tokens=TRIAL_TOKENS, attention=attention)
            times_s[attention] = run.steps[-1].time_s - run.steps[0].time_s
        return min(kinds, key=lambda name: times_s[name])

    def _run_engine(
        self, prompts: Sequence[Int32Array], *, new_tokens: int
    ) -> BatchRun:
        harness = self._rig
        start_s = harness.now_s()
        handles = harness.submit(prompts, new_tokens=new_tokens)
        row_of = {handle: row for row, handle in enumerate(handles)}
        frames = [frame for frame in harness.run() if frame.handles]
        tokens: list[list[int]] = [[] for _ in prompts]
        for frame in frames:
            for handle, token in zip(frame.handles, frame.tokens, strict=True):
                tokens[row_of[handle]].append(token)
        return BatchRun(
            batch=len(prompts),
            prompt_tokens=len(prompts[0]),
            steps=tuple(
                BatchStep(
                    time_s=frame.time_s - start_s,
                    rows=tuple(row_of[handle] for handle in frame.handles),
                )
                for frame in frames
            ),
            tokens=tuple(tuple(row) for row in tokens),
        )

    def _prompts(self, batch: int) -> list[Int32Array]:
        shape = (batch, self._settings.prompt_tokens)
        return list(self._rng.integers(0, self._vocab_size, shape, dtype=np.int32))


def middle(speeds: Sequence[BatchSpeeds]) -> BatchSpeeds:
    """Returns the median of each speed."""
    decodes = [speed.decode for speed in speeds if speed.decode is not None]
    return BatchSpeeds(
        prefill=median([speed.prefill for speed in speeds]),
        decode=median(decodes) if decodes else None,
        overall=median([speed.overall for speed in speeds]),
    )


def beside(
    ours: Sequence[BatchRun], theirs: Sequence[BatchRun], *, attention: str
) -> SideResult:
    """Returns what another program made of the engine's prompts."""
    equal = sum(count_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    total = sum(len(row) for run in ours for row in run.tokens)
    return SideResult(
        speeds=middle([speeds_of(run) for run in theirs]),
        attention=attention,
        equal_tokens=equal / total,
    )


def render(results: Sequence[BatchResult]) -> str:
    """Returns decode, prefill and overall speed of every batch size."""
    names = [kind.name for kind in SIDES]
    ratios = [f"engine/{name}" for name in names]
    header = ("tok/s", "batch", "engine", "bare", *names, *ratios)
    lines = [table(header, [row for result in results for row in _rows(result)])]
    lines += [_agreement(name, results) for name in names if name in results[0].sides]
    return "\n\n".join(lines)


def _agreement(name: str, results: Sequence[BatchResult]) -> str:
    """One program's share of equal tokens at each batch size."""
    shares = (
        f"{100 * side.equal_tokens:.1f}% at batch {result.batch} ({side.attention})"
        for result in results
        for side in [result.sides[name]]
    )
    return (
        f"of the engine's tokens are those of {name}, position by position: "
        f"{', '.join(shares)}\n(after one that differs a sequence counts no further)"
    )


def _rows(result: BatchResult) -> Iterator[tuple[object, ...]]:
    sides = [result.sides.get(kind.name) for kind in SIDES]
    for name, bare in (
        ("decode", result.bare_decode),
        ("prefill", None),
        ("overall", None),
    ):
        ours: float | None = getattr(result.engine, name)
        theirs = [getattr(side.speeds, name) if side else None for side in sides]
        ratios = [f"{ours / speed:.2f}" if ours and speed else None for speed in theirs]
        yield (name, result.batch, ours, bare, *theirs, *ratios)


def _engine_config(settings: DecodeSettings, directory: Path) -> EngineConfig:
    """An engine with exactly these batch sizes, and no prompt found in a cache."""
    return dataclasses.replace(
        settings.engine,
        model=str(directory),
        max_model_len=settings.prompt_tokens + settings.new_tokens,
        max_rows=max(settings.batches),
        decode_rows=settings.batches,
        prefix_cache=False,
    )


def _start_sides(
    settings: DecodeSettings, directory: Path, stack: contextlib.ExitStack
) -> tuple[list[SideProcess], dict[str, str]]:
    """The sides that can be had, ended with the stack, and a word about each."""
    sides = []
    notes = {}
    for kind, python in zip(
        SIDES, (settings.torch_python, settings.llama_python), strict=True
    ):
        side, notes[kind.name] = start_side(
            kind, python=python, directory=directory, threads=num_cpus()
        )
        if side is not None:
            sides.append(stack.enter_context(side))
    return sides, notes

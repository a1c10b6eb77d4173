"""`--suite=kernels` compares attention and page moves with what the device can do.

On a GPU it checks the kernels, measures the ceilings (copy, bfloat16 matmul), then all
figures that have a goal, beside others who compute the same, and tunes if asked to.
Each part runs in a process of its own and passes on every figure at once: whatever a
part dies of, the others' figures stay. On a CPU it times the reference alone.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from tqdm import tqdm

from benchmarks.kernels import timing
from benchmarks.kernels.apart import Ended, run_apart
from benchmarks.kernels.beside_torch import RIVALS, torch_seconds
from benchmarks.kernels.figures import Figure, failure, figure, is_short
from benchmarks.kernels.jobs import PARTS, Work, rival_figure
from benchmarks.kernels.loads import KernelSize, Load
from benchmarks.kernels.timing import Timer
from mell_jax.bench.report import BenchReport, table
from mell_jax.pallas_kernels.attention.backends import BACKENDS

ON_CPU = (Load(rows=1, context=512), Load(rows=8, context=512))
CHILD = (sys.executable, "-m", "benchmarks.kernels.child")
LIMIT_S = 900.0  # of one job, compiling included
Save = Callable[[BenchReport], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSettings:
    """The settings are those of one measurement.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    backend: str = "auto"
    repeats: int = 7
    parts: tuple[str, ...] = PARTS[:-1]
    tune: bool = False
    size: KernelSize = "full"  # "tiny" runs every part on any device
    torch_python: str = ""  # empty: without torch
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.repeats >= 1):
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")
        if self.backend not in ("auto", *BACKENDS):
            raise ValueError(
                f"attention_backend must be auto, {', '.join(BACKENDS)}; got "
                f"{self.backend!r}"
            )
        unknown = set(self.parts) - set(PARTS[:-1])
        if unknown or not self.parts:
            raise ValueError(
                f"parts must be of {', '.join(PARTS[:-1])}; got {list(self.parts)}"
            )

    @property
    def name(self) -> str | None:
        """Returns it as the op takes it."""
        return None if self.backend == "auto" else self.backend


def run_kernels(
    settings: KernelSettings, *, progress: bool, save: Save = lambda _: None
) -> BenchReport:
    """Measures everything on the default device.

    Args:
      save: is given what is known so far after each figure.

    Raises:
      ValueError: the device cannot do what was asked for.
    """
    platform = jax.devices()[0].platform
    if platform not in ("gpu", "cpu"):
        raise ValueError(f"the kernels suite runs on a GPU or a CPU, not on {platform}")
    if settings.tune and platform != "gpu" and settings.size != "tiny":
        raise ValueError("--tune measures Triton kernels and needs a GPU")
    on_gpu = platform == "gpu" or settings.size == "tiny"
    figures: list[Figure] = []
    jobs = run_jobs(settings) if on_gpu else _on_cpu(settings)
    with tqdm(jobs, desc="measure", unit="figure", disable=not progress) as bar:
        for one in bar:
            figures.append(one)
            save(_report(figures))
    return _report(figures)


def _report(figures: Sequence[Figure]) -> BenchReport:
    rows = [
        (f["name"], f["value"], f["unit"], f["ratio"], f["goal"], f["note"])
        for f in figures
    ]
    text = table(("figure", "value", "unit", "ratio", "goal", "note"), rows)
    failed = [f["name"] for f in figures if f["value"] is None]
    missed = [f["name"] for f in figures if is_short(f)]
    text += f"\n\nwithout a figure: {len(failed)}, short of their goal: {len(missed)}"
    results = {"figures": list(figures), "failed": failed, "missed": missed}
    return BenchReport(suite="kernels", text=text, results=results)


def _on_cpu(settings: KernelSettings) -> Iterator[Figure]:
    timer = Timer(repeats=settings.repeats)
    for load in ON_CPU:
        inputs = timing.attention_inputs(
            load, kv_dtype=jnp.bfloat16, seed=settings.seed
        )
        for name in ("q", "pool"):
            inputs[name] = inputs[name].astype(jnp.float32)
        attend = timing.paged(load, backend=settings.name)
        seconds = timing.attention_seconds(timer, inputs, attend)
        gigabytes = load.kv_bytes(4) / seconds / 1e9
        yield figure(f"{load.name} float32", gigabytes, "GB/s of KV")


def run_jobs(
    settings: KernelSettings, *, left_s: Callable[[], float] = lambda: LIMIT_S
) -> Generator[Figure, None, Ended]:
    """Yields the figures of every job that is wanted, each in a process of its own.

    This process leaves the device's memory alone: its children need it.

    Args:
      settings: say what is wanted.
      left_s: says before each job how long it may take; 0 or less leaves it out.

    Returns:
      How the last of those ended that did not end well.
    """
    ended = Ended.WELL
    known: dict[str, float] = {}
    work = Work(
        backend=settings.name,
        repeats=settings.repeats,
        seed=settings.seed,
        size=settings.size,
        known=known,
    )
    for job, index in _jobs(settings, count=len(work.scale.decode)):
        limit_s = min(LIMIT_S, left_s())
        if limit_s <= 0:
            yield failure(job, "left out: no time is left")
            ended = Ended.LATE
            continue
        if job == "torch":
            load = work.scale.decode[index]
            yield from _torch(settings, load, ours=known.get(load.name))
            continue
        order = {"job": job, "load": index, "work": dataclasses.asdict(work)}
        command = [*CHILD, json.dumps(order)]
        how = yield from _noted(
            run_apart(command, name=job, limit_s=limit_s), known=known
        )
        ended = ended if how is Ended.WELL else how
    return ended


def _noted(
    figures: Generator[Figure, None, Ended], *, known: dict[str, float]
) -> Generator[Figure, None, Ended]:
    """Passes figures on and keeps their values for the jobs to come."""
    while True:
        try:
            one = next(figures)
        except StopIteration as end:
            ended: Ended = end.value
            return ended
        if one["value"] is not None:
            known[one["name"]] = one["value"]
        yield one


def _jobs(settings: KernelSettings, *, count: int) -> Iterator[tuple[str, int]]:
    """Each part that is wanted, and for which of so many decode loads."""
    for part in PARTS:
        is_wanted = settings.tune if part == "tune" else part in settings.parts
        if is_wanted:
            loads = count if part in ("decode", "torch") else 1
            yield from ((part, load) for load in range(loads))


def _torch(
    settings: KernelSettings, load: Load, *, ours: float | None
) -> Iterator[Figure]:
    for rival, method in RIVALS.items():

        def measure(method: str = method) -> float:
            return torch_seconds(
                settings.torch_python, load, method=method, repeats=settings.repeats
            )

        yield rival_figure(load, rival, measure, ours=ours)

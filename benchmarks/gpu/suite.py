"""`--suite=gpu` measures a GPU from launches to tokens, within nine minutes.

    thunks | dispatch | sharing | speed | kernels | moves | flags

Each stage runs in processes of its own, within its share of the time, and passes on
every figure at once: what a stage dies of, or does not finish, costs its own figures
only. A rehearsal runs all of it tiny, on any device.
"""

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from benchmarks.gpu.launches import thunk_figures
from benchmarks.gpu.scale import GpuOrder, Size
from benchmarks.gpu.stages import FLAGS, NAMES, STAGES, Stage
from benchmarks.kernels.apart import Ended, run_apart
from benchmarks.kernels.figures import Figure, failure, is_short
from benchmarks.kernels.jobs import PARTS
from benchmarks.kernels.suite import KernelSettings, run_jobs
from mell_jax.bench.report import BenchReport, table, title
from mell_jax.pallas_kernels.attention.backends import BACKENDS

CHILD = (sys.executable, "-m", "benchmarks.gpu.child")
MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION=0.9"  # two pools want more than jax's 0.75
KERNEL_PARTS = tuple(p for p in PARTS if p not in ("moves", "step", "torch", "tune"))
KERNEL_REPEATS = 5
Save = Callable[[BenchReport], None]
Run = Generator[Figure, None, Ended]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    parts: tuple[str, ...] = NAMES
    rehearse: bool = False
    backend: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if set(self.parts) - set(NAMES) or not self.parts:
            raise ValueError(
                f"parts must be of {', '.join(NAMES)}; got {list(self.parts)}"
            )
        if self.backend not in ("auto", *BACKENDS):
            raise ValueError(
                f"attention_backend must be auto, {', '.join(BACKENDS)}; got "
                f"{self.backend!r}"
            )

    @property
    def size(self) -> Size:
        return "tiny" if self.rehearse else "full"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Returns those that are wanted, in the order of all."""
        return tuple(stage for stage in STAGES if stage.name in self.parts)


@dataclass(slots=True, kw_only=True)
class StageRecord:
    """A record is what is known of a stage so far."""

    name: str
    share_s: float
    status: str = "running"
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)


def run_gpu(
    settings: GpuSettings, *, progress: bool, save: Save = lambda _: None
) -> BenchReport:
    """Measures every stage on the default device.

    Args:
      settings: say which stages.
      progress: shows a bar.
      save: is given what is known so far after each figure.

    Raises:
      ValueError: there is no GPU, and it is no rehearsal.
    """
    platform = jax.devices()[0].platform
    if platform != "gpu" and not settings.rehearse:
        raise ValueError(
            f"the gpu suite needs a GPU, and jax finds a {platform}; --rehearse runs "
            "every stage tiny, on any device"
        )
    records: list[StageRecord] = []
    with (
        tempfile.TemporaryDirectory(prefix="mell-gpu-") as folder,
        tqdm(desc="gpu", unit="figure", disable=not progress) as bar,
    ):
        for _ in _run_stages(settings, folder=Path(folder), records=records):
            bar.set_postfix_str(records[-1].name)
            bar.update()
            save(report_of(records))
    return report_of(records)


def _run_stages(
    settings: GpuSettings, *, folder: Path, records: list[StageRecord]
) -> Iterator[None]:
    """Fills the records; pauses after each figure and after each stage."""
    end_s = time.monotonic()
    for stage in settings.stages:
        end_s += stage.share_s
        start_s = time.monotonic()
        record = StageRecord(name=stage.name, share_s=stage.share_s)
        records.append(record)
        run = _figures(stage, settings, folder=folder, left_s=_until(end_s))
        while True:
            try:
                record.figures.append(next(run))
            except StopIteration as end:
                record.status = str(end.value)
                break
            finally:
                record.seconds = time.monotonic() - start_s
            yield
        yield


def _until(end_s: float) -> Callable[[], float]:
    return lambda: end_s - time.monotonic()


def _figures(
    stage: Stage, settings: GpuSettings, *, folder: Path, left_s: Callable[[], float]
) -> Run:
    """Yields a stage's figures; all of its processes end in time."""
    if stage.name == "kernels":
        return run_jobs(_kernels(settings), left_s=left_s)
    order = _order(settings, folder=folder)
    if stage.name == "flags":
        return _run_flags(order, left_s=left_s)
    if stage.name == "thunks":
        return _run_thunks(order, limit_s=left_s())
    return _run_child(stage.name, order, flags="", limit_s=left_s())


def _order(settings: GpuSettings, *, folder: Path) -> GpuOrder:
    programs, dump = folder / "programs", folder / "dump"
    for path in (programs, dump):
        path.mkdir(exist_ok=True)
    return GpuOrder(
        size=settings.size,
        seed=settings.seed,
        backend=settings.backend,
        programs=str(programs),
        dump=str(dump),
    )


def _kernels(settings: GpuSettings) -> KernelSettings:
    return KernelSettings(
        backend=settings.backend,
        repeats=1 if settings.rehearse else KERNEL_REPEATS,
        parts=KERNEL_PARTS,
        tune=True,
        size="tiny" if settings.rehearse else "brief",
        seed=settings.seed,
    )


def _run_thunks(order: GpuOrder, *, limit_s: float) -> Run:
    """Reads what was left even where the process did not come to its end."""
    flags = f"--xla_dump_to={order.dump} --xla_dump_hlo_as_text"
    ended = yield from _run_child("thunks", order, flags=flags, limit_s=limit_s)
    yield from thunk_figures(Path(order.dump))
    return ended


def _run_flags(order: GpuOrder, *, left_s: Callable[[], float]) -> Run:
    """Runs a step without flags and with each; they are compared with the first."""
    ended = Ended.WELL
    for label, flags in FLAGS.items():
        told = dataclasses.replace(order, label=label)
        run = _run_child("flags", told, flags=flags, limit_s=left_s())
        found: list[Figure] = []
        how = yield from _kept(run, found=found)
        if how is not Ended.WELL:
            ended = how
        if not flags and found and found[0]["value"] is not None:
            order = dataclasses.replace(order, base_ms=found[0]["value"])
    return ended


def _kept(run: Run, *, found: list[Figure]) -> Run:
    """Passes figures on and keeps them in `found`."""
    while True:
        try:
            found.append(next(run))
        except StopIteration as end:
            ended: Ended = end.value
            return ended
        yield found[-1]


def _run_child(name: str, order: GpuOrder, *, flags: str, limit_s: float) -> Run:
    if limit_s <= 0:
        yield failure(name, "left out: no time is left")
        return Ended.LATE
    own = (MEMORY, f"XLA_FLAGS={flags}") if flags else (MEMORY,)
    asked = json.dumps({"stage": name, "order": dataclasses.asdict(order)})
    command = ("env", *own, *CHILD, asked)
    return (yield from run_apart(command, name=name, limit_s=limit_s))


def report_of(records: Sequence[StageRecord]) -> BenchReport:
    """Returns what is known, a table for each stage."""
    figures = [one for record in records for one in record.figures]
    failed = [one["name"] for one in figures if one["value"] is None]
    missed = [one["name"] for one in figures if is_short(one)]
    parts = [_text(record) for record in records]
    parts.append(
        f"without a figure: {len(failed)}, short of their goal: {len(missed)}; "
        f"{sum(record.seconds for record in records):.0f} s"
    )
    results: Mapping[str, Any] = {
        "stages": [dataclasses.asdict(record) for record in records],
        "failed": failed,
        "missed": missed,
    }
    return BenchReport(suite="gpu", text="\n\n".join(parts), results=results)


def _text(record: StageRecord) -> str:
    took = f"{record.seconds:.0f} of {record.share_s:.0f} s"
    head = title(f"{record.name}: {record.status}, {took}")
    columns = ("name", "value", "unit", "ratio", "goal", "note")
    rows = [[one[column] for column in columns] for one in record.figures]
    return f"{head}\n{table(('figure', *columns[1:]), rows)}"

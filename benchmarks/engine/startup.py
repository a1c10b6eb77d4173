"""`--suite=startup` measures seconds until ready, without and with a cache.

Every start is a fresh process: cold ones with an empty cache folder, warm ones with the
folder that a cold one filled. The files of packages and weights are in the page cache
of the operating system in both, so this is a restart and not a first boot.

    import       Python and packages, jax among them
    load         weights from disk to the device
    compile      every step; from the cache when warm
    other        device, pool and engine
    first token  one short request after that
    process      from launching the process to its end, seen from outside
    mell-serve   from launching the server to its word that it takes requests; not for
                 random weights, which have no tokenizer
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mell_jax.bench.report import BenchReport, table
from mell_jax.bench.shapes import model_directory
from mell_jax.bench.stats import median

SERVER = "mell_jax.launch"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")  # the server needs one
READY = " is served at "
PARTS = (
    "import",
    "load",
    "compile",
    "other",
    "first_token",
    "process",
    "mell_serve",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupSettings:
    """The settings are those of one run.

    Raises:
      ValueError: a value is out of range.
    """

    model: str = "demo"
    repeats: int = 3

    def __post_init__(self) -> None:
        if not (self.repeats >= 1):
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")


def run_startup(settings: StartupSettings, *, progress: bool) -> BenchReport:
    """Starts `repeats` times cold and as often warm.

    Raises:
      ValueError: the model cannot be used.
      RuntimeError: a start failed; its own words are on the standard error stream.
    """
    cold, warm = [], []
    bar = tqdm(
        total=2 * settings.repeats, desc="startup", unit="start", disable=not progress
    )
    with model_directory(settings.model) as model, contextlib.closing(bar):
        for _ in range(settings.repeats):
            with tempfile.TemporaryDirectory(prefix="mell-bench-") as folder:
                cold.append(_start(model, cache=Path(folder) / "cache"))
                bar.update()
                warm.append(_start(model, cache=Path(folder) / "cache"))
                bar.update()
    medians = {"cold": medians_of(cold), "warm": medians_of(warm)}
    about = f"{settings.model}: seconds, median of {settings.repeats} starts"
    return BenchReport(
        suite="startup",
        text=f"{about}\n\n{render(medians)}",
        results={"medians_s": medians, "cold_s": cold, "warm_s": warm},
    )


def medians_of(starts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the median of every part that all starts have."""
    names = [name for name in PARTS if all(name in start for start in starts)]
    return {name: median([start[name] for start in starts]) for name in names}


def render(medians: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a row for cold starts, one for warm ones."""
    names = [name for name in PARTS if all(name in row for row in medians.values())]
    return table(
        ("start", *(name.replace("_", " ") for name in names)),
        [(kind, *(row[name] for name in names)) for kind, row in medians.items()],
    )


def _start(model: Path, *, cache: Path) -> dict[str, float]:
    """A start of the engine, and one of the server if the model has a tokenizer.

    Each has a folder of its own, so that one does not warm up the other.
    """
    command = [sys.executable, "-m", "benchmarks.engine.startup_child", str(model)]
    start_s = time.perf_counter()
    child = subprocess.run(
        [*command, str(cache / "engine")], stdout=subprocess.PIPE, check=False
    )
    process_s = time.perf_counter() - start_s
    if child.returncode:
        raise RuntimeError(f"the engine did not start: status {child.returncode}")
    parts: dict[str, float] = json.loads(child.stdout)
    parts["process"] = process_s
    if any((model / name).exists() for name in TOKENIZERS):
        parts["mell_serve"] = _start_server(model, cache=cache / "server")
    return parts


def _start_server(model: Path, *, cache: Path) -> float:
    """Seconds until the server says that it takes requests."""
    start_s = time.perf_counter()
    flags = [f"--model={model}", "--port=0", f"--compilation_cache_dir={cache}"]
    with _running([sys.executable, "-m", SERVER, *flags]) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if READY in line:
                return time.perf_counter() - start_s
    raise RuntimeError(f"mell-serve did not start: status {server.returncode}")


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()  # lets it finish its words

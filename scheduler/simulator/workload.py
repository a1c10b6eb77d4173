"""Requests to simulate: read from a trace or drawn from a seed.

A trace is a gzipped CSV of `arrival_s,input_tokens,output_tokens[,model]` with arrivals
from 0 on, in order.
"""

import csv
import gzip
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.events import ONLY_MODEL

QUANTILES_PATH = Path(__file__).parent / "quantiles.json"
COLUMNS = ["arrival_s", "input_tokens", "output_tokens"]
MOST = 1e12  # seconds or tokens: beyond, a file is wrong
MOST_DRAWN = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests in order of arrival; arrays are [n].

    `blocks`, if they are known, name what each prompt consists of, `block_tokens` by
    `block_tokens`: equal names mean equal content, and equal content before it.
    """

    arrival_s: npt.NDArray[np.float64]
    input_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    models: tuple[ModelId, ...]  # of each request
    name: str
    blocks: tuple[tuple[int, ...], ...] | None = None  # of each request
    block_tokens: int = 512

    def __len__(self) -> int:
        return len(self.arrival_s)

    def first(self, span_s: float) -> "Workload":
        """The requests that arrive before `span_s`; errors as of `between`."""
        return self.between(0.0, span_s)

    def between(self, start_s: float, end_s: float) -> "Workload":
        """The requests that arrive from `start_s` to `end_s`, counted from the start.

        Raises:
          ValueError: there are none.
        """
        start, end = np.searchsorted(self.arrival_s, [start_s, end_s]).tolist()
        if start == end:
            raise ValueError(
                f"{self.name}: no request arrives between {start_s} and {end_s} s"
            )
        return replace(
            self,
            arrival_s=self.arrival_s[start:end] - start_s,
            input_tokens=self.input_tokens[start:end],
            output_tokens=self.output_tokens[start:end],
            models=self.models[start:end],
            blocks=None if self.blocks is None else self.blocks[start:end],
        )


def read_trace(path: Path) -> Workload:
    """Reads `path`.

    Raises:
      ValueError: it is no such file, columns are missing, a number is out of range, or
        arrivals go back; with the line and what it should be.
    """
    if not path.is_file():
        raise ValueError(f"there is no trace {path}: give a .csv or .csv.gz file")
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            lines = csv.DictReader(file)
            names = list(lines.fieldnames or [])
            records = list(lines)
    except (csv.Error, EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not readable as CSV or gzip: {error}") from None
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise ValueError(f"{path}: columns {missing} are missing, found {names}")
    if not records:
        raise ValueError(f"{path} has no requests: it needs at least one line of them")
    arrival = _numbers(path, records, "arrival_s", least=0, is_whole=False)
    back = np.flatnonzero(np.diff(arrival) < 0)
    if len(back):
        at = int(back[0]) + 1
        raise ValueError(
            f"{path}, line {at + 2}: arrivals must not go back, but {arrival[at]:g} s "
            f"follows {arrival[at - 1]:g} s: sort the lines"
        )
    given, made = (
        _numbers(path, records, column, least=1, is_whole=True).astype(np.int64)
        for column in COLUMNS[1:]
    )
    return Workload(
        arrival_s=arrival,
        input_tokens=given,
        output_tokens=made,
        models=tuple(ModelId(record.get("model") or ONLY_MODEL) for record in records),
        name=path.name.removesuffix(".gz").removesuffix(".csv"),
    )


def _numbers(
    path: Path,
    records: list[dict[str, str]],
    column: str,
    *,
    least: int,
    is_whole: bool,
) -> npt.NDArray[np.float64]:
    """One column [n] of a trace."""
    values = []
    for line, record in enumerate(records, start=2):
        text = record[column]
        try:
            value = float(text)
        except (TypeError, ValueError):
            value = math.nan
        if not (least <= value < MOST) or (is_whole and value != int(value)):
            rule = f"a{' whole' if is_whole else ''} number of at least {least}"
            raise ValueError(
                f"{path}, line {line}: {column} must be {rule}, got {text!r}"
            )
        values.append(value)
    return np.array(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lognormal:
    """Lengths of mean `mean` whose logarithm has the standard deviation `sigma`."""

    mean: float
    sigma: float

    def __post_init__(self) -> None:
        if not (0 < self.mean < math.inf):
            raise ValueError(f"a mean length must be > 0 and finite, got {self.mean}")
        if not (0 <= self.sigma <= 10):
            raise ValueError(f"a sigma must be in [0, 10], got {self.sigma}")

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        mu = np.log(self.mean) - self.sigma**2 / 2
        lengths = rng.lognormal(mu, self.sigma, count)
        return np.maximum(1, lengths.astype(np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Lengths by interpolation between evenly spaced quantiles."""

    values: tuple[float, ...]

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        at = np.linspace(0, 1, len(self.values))
        lengths = np.interp(rng.random(count), at, self.values)
        return np.maximum(1, np.rint(lengths).astype(np.int64))


def quantile_lengths(name: str) -> tuple[Quantiles, Quantiles]:
    """Input and output lengths of a published trace whose quantiles come along.

    Raises:
      ValueError: there is none of that name.
    """
    known = json.loads(QUANTILES_PATH.read_text())["traces"]
    if name not in known:
        raise ValueError(f"no quantiles of {name!r}; there are {sorted(known)}")
    entry = known[name]
    return (
        Quantiles(values=tuple(entry["input"])),
        Quantiles(values=tuple(entry["output"])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """A workload to draw: `burstiness` is the squared variation of the time between
    arrivals, 1 for Poisson and more for bursts (gamma)."""

    rate_per_s: float
    span_s: float
    input_lengths: Lognormal | Quantiles
    output_lengths: Lognormal | Quantiles
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rate_per_s", "span_s", "burstiness"):
            value = getattr(self, name)
            if not (0 < value < math.inf):
                raise ValueError(f"{name} must be > 0 and finite, got {value}")
        if not (self.rate_per_s * self.span_s <= MOST_DRAWN):
            raise ValueError(
                f"{self.rate_per_s} requests a second for {self.span_s} s are more "
                f"than {MOST_DRAWN:,}: lower the rate or the span"
            )


def draw(
    synthetic: Synthetic,
    *,
    seed: int,
    max_input_tokens: int,
    max_tokens: int,
) -> Workload:
    """Draws requests; inputs and sums are cut to the given maxima.

    Raises:
      ValueError: the maxima leave no room, or nothing arrives.
    """
    if not (1 <= max_input_tokens < max_tokens):
        raise ValueError(
            f"max_input_tokens must be in [1, max_tokens), got {max_input_tokens} and "
            f"{max_tokens}: an output needs a token, too"
        )
    rng = np.random.default_rng(seed)
    expected = synthetic.rate_per_s * synthetic.span_s
    count = int(expected + 10 * np.sqrt(expected * synthetic.burstiness) + 10)
    shape = 1 / synthetic.burstiness
    gaps = rng.gamma(shape, 1 / (shape * synthetic.rate_per_s), count)
    arrival = np.cumsum(gaps)
    arrival = arrival[arrival < synthetic.span_s]
    count = len(arrival)
    if not count:
        raise ValueError(
            f"no request arrives within {synthetic.span_s} s at "
            f"{synthetic.rate_per_s} a second: raise the rate or the span"
        )
    given = np.minimum(synthetic.input_lengths.draw(rng, count), max_input_tokens)
    made = synthetic.output_lengths.draw(rng, count)
    made = np.maximum(1, np.minimum(made, max_tokens - given))
    return Workload(
        arrival_s=arrival,
        input_tokens=given,
        output_tokens=made,
        models=(ONLY_MODEL,) * count,
        name="synthetic",
    )

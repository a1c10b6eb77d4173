"""Requests to simulate: read from a trace or drawn from a seed.

A trace is a gzipped CSV of `arrival_s,input_tokens,output_tokens[,model]` with arrivals
from 0 on, in order.
"""

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.events import ONLY_MODEL

QUANTILES_PATH = Path(__file__).parent / "quantiles.json"
COLUMNS = ["arrival_s", "input_tokens", "output_tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests in order of arrival; arrays are [n]."""

    arrival_s: npt.NDArray[np.float64]
    input_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    models: tuple[ModelId, ...]  # of each request
    name: str

    def __len__(self) -> int:
        return len(self.arrival_s)


def read_trace(path: Path) -> Workload:
    """Reads `path`.

    Raises:
      ValueError: columns are missing, a number is out of range, or arrivals go back.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = csv.DictReader(file)
        names = rows.fieldnames or []
        missing = [column for column in COLUMNS if column not in names]
        if missing:
            raise ValueError(f"{path}: columns {missing} are missing, found {names}")
        records = list(rows)
    arrival, given, made = (
        np.array([float(record[column]) for record in records]) for column in COLUMNS
    )
    if not (np.diff(arrival, prepend=0.0) >= 0).all():
        raise ValueError(f"{path}: arrivals must start at 0 or later and not go back")
    if not ((given >= 1).all() and (made >= 1).all()):
        raise ValueError(f"{path}: every request needs at least one token in and out")
    models = [ModelId(record.get("model") or ONLY_MODEL) for record in records]
    return Workload(
        arrival_s=arrival,
        input_tokens=given.astype(np.int64),
        output_tokens=made.astype(np.int64),
        models=tuple(models),
        name=path.name.removesuffix(".gz").removesuffix(".csv"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lognormal:
    """Lengths of mean `mean` whose logarithm has the standard deviation `sigma`."""

    mean: float
    sigma: float

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
            if not (getattr(self, name) > 0):
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


def draw(
    synthetic: Synthetic,
    *,
    seed: int,
    max_input_tokens: int,
    max_tokens: int,
) -> Workload:
    """Draws requests; inputs and sums are cut to the given maxima."""
    rng = np.random.default_rng(seed)
    expected = synthetic.rate_per_s * synthetic.span_s
    count = int(expected + 10 * np.sqrt(expected * synthetic.burstiness) + 10)
    shape = 1 / synthetic.burstiness
    gaps = rng.gamma(shape, 1 / (shape * synthetic.rate_per_s), count)
    arrival = np.cumsum(gaps)
    arrival = arrival[arrival < synthetic.span_s]
    count = len(arrival)
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

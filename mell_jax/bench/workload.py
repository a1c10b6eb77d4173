"""Makes the requests of a serving benchmark: lengths, arrivals and prompts.

Lengths come from a file with a header line, `input_tokens,output_tokens` and, if it is
a trace, `arrival_s` and `model` as well, plain or gzipped; or they are drawn. Prompts
are token ids, random or cut from a text.
"""

import csv
import dataclasses
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
AUTO_SHARE = 0.99
"""Share of the requests that fit a context after scaling automatically."""
SIGMA = 0.7
"""Of the logarithm of drawn lengths: a twentieth is three times the median."""
WAVE = 0.7
"""Share of its mean by which the rate of a wave of arrivals rises and falls."""


class WorkloadError(ValueError):
    """A trace cannot be read, or settings leave nothing to send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadShape:
    """A shape has the lengths of a request, and when it arrives if that is known."""

    input_tokens: int
    output_tokens: int
    arrival_s: float | None = None  # from the start
    model: str = ""


def read_trace(path: Path) -> list[LoadShape]:
    """Reads a `.csv` or `.csv.gz`, in the order of the file.

    Raises:
      WorkloadError: the file is missing, has no such columns, or a row is damaged.
    """
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error}") from error
    rows = csv.DictReader(io.StringIO(text.decode("utf-8")))
    missing = {"input_tokens", "output_tokens"} - set(rows.fieldnames or ())
    if missing:
        raise WorkloadError(
            f"{path}: its first line must name the columns input_tokens and "
            f"output_tokens (and, if known, arrival_s and model), got {rows.fieldnames}"
        )
    return [_shape(row, where=f"{path}:{rows.line_num}") for row in rows]


def draw_shapes(
    count: int, *, input_tokens: int, output_tokens: int, context: int, seed: int
) -> list[LoadShape]:
    """Draws log-normal lengths with these medians, each at most half of the context."""
    rng = np.random.default_rng(seed)

    def lengths(middle: int) -> list[int]:
        drawn = np.rint(middle * np.exp(rng.normal(0.0, SIGMA, count)))
        return [int(n) for n in np.clip(drawn, 1, max(1, context // 2))]

    pairs = zip(lengths(input_tokens), lengths(output_tokens), strict=True)
    return [LoadShape(input_tokens=i, output_tokens=o) for i, o in pairs]


def scale_lengths(shapes: Sequence[LoadShape], *, factor: float) -> list[LoadShape]:
    """Multiplies all lengths; none gets shorter than one token."""
    return [
        dataclasses.replace(
            shape,
            input_tokens=max(1, round(shape.input_tokens * factor)),
            output_tokens=max(1, round(shape.output_tokens * factor)),
        )
        for shape in shapes
    ]


def auto_factor(shapes: Sequence[LoadShape], *, context: int) -> float:
    """Returns the factor with which 99% of the requests fit the context; at most 1."""
    totals = [shape.input_tokens + shape.output_tokens for shape in shapes]
    return min(
        1.0, context / float(np.quantile(totals, AUTO_SHARE, method="inverted_cdf"))
    )


def keep_fitting(shapes: Sequence[LoadShape], *, context: int) -> list[LoadShape]:
    """Leaves out what does not fit a context with input and output together."""
    return [s for s in shapes if s.input_tokens + s.output_tokens <= context]


def poisson_arrivals(
    shapes: Sequence[LoadShape], *, requests_per_s: float, seed: int
) -> list[LoadShape]:
    """Gives every request an arrival, with exponential gaps; the first comes at 0."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1.0 / requests_per_s, len(shapes))
    gaps[:1] = 0.0
    return _arrive(shapes, np.cumsum(gaps))


def wave_arrivals(
    shapes: Sequence[LoadShape], *, requests_per_s: float, period_s: float, seed: int
) -> list[LoadShape]:
    """Returns Poisson arrivals whose rate rises and falls by `WAVE` around its mean."""
    rng = np.random.default_rng(seed)
    expected = np.cumsum(rng.exponential(1.0, len(shapes)))
    times = np.arange(0.0, 2.0 * expected[-1] / requests_per_s + period_s, 0.01)
    turns = 2.0 * np.pi * times / period_s
    swing = WAVE * period_s / (2.0 * np.pi) * (1.0 - np.cos(turns))
    arrivals = np.interp(expected, requests_per_s * (times + swing), times)
    return _arrive(shapes, arrivals - arrivals[0])


def trace_arrivals(
    shapes: Sequence[LoadShape], *, time_scale: float
) -> list[LoadShape]:
    """Keeps the trace's arrivals, from 0 and times `time_scale`; sorted.

    Without arrivals all requests come at once.
    """
    known = [shape.arrival_s or 0.0 for shape in shapes]
    times = (np.array(known) - min(known, default=0.0)) * time_scale
    return sorted(_arrive(shapes, times), key=lambda shape: shape.arrival_s or 0.0)


def random_prompts(
    shapes: Sequence[LoadShape], *, vocab_size: int, avoid: Sequence[int], seed: int
) -> list[Int32Array]:
    """Returns ids drawn evenly from the vocabulary, without those in `avoid`."""
    rng = np.random.default_rng(seed)
    ids = np.setdiff1d(np.arange(vocab_size, dtype=np.int32), np.array(avoid, np.int32))
    return [ids[rng.integers(0, len(ids), s.input_tokens)] for s in shapes]


def text_prompts(
    shapes: Sequence[LoadShape], *, ids: Sequence[int], seed: int
) -> list[Int32Array]:
    """Returns runs of a tokenized text from random places; at its end it begins again.

    Raises:
      WorkloadError: the text is empty.
    """
    if not ids:
        raise WorkloadError("the text for prompts holds no token")
    rng = np.random.default_rng(seed)
    text = np.array(ids, np.int32)
    starts = rng.integers(0, len(text), len(shapes))
    return [
        text[(start + np.arange(shape.input_tokens)) % len(text)]
        for start, shape in zip(starts, shapes, strict=True)
    ]


def _shape(row: dict[str, str], *, where: str) -> LoadShape:
    try:
        arrival = row.get("arrival_s")
        shape = LoadShape(
            input_tokens=int(row["input_tokens"]),
            output_tokens=int(row["output_tokens"]),
            arrival_s=float(arrival) if arrival else None,
            model=row.get("model") or "",
        )
    except (ValueError, TypeError) as error:
        raise WorkloadError(f"{where}: is no request: {error}") from error
    if not (shape.input_tokens >= 1 and shape.output_tokens >= 0):
        raise WorkloadError(f"{where}: needs input and output tokens, got {row}")
    return dataclasses.replace(shape, output_tokens=max(1, shape.output_tokens))


def _arrive(
    shapes: Sequence[LoadShape], times: npt.NDArray[np.float64]
) -> list[LoadShape]:
    return [
        dataclasses.replace(shape, arrival_s=float(time))
        for shape, time in zip(shapes, times, strict=True)
    ]

"""Makes the figures that serving is judged by of what happened to each request.

The definitions are those of vLLM's serving benchmark, so that tables compare:

    TTFT  from sending to the first chunk
    ITL   every gap between two chunks of a request; a chunk of k tokens ends one gap,
          so chunks that carry several tokens make ITL longer but rarer: see
          "Tokens per chunk", which is 1 when nothing was coalesced
    TPOT  (E2EL - TTFT) / (output tokens - 1), of requests with at least two
    E2EL  from sending to the last chunk

Latencies count from when a request was sent; a wait for `max_concurrency` is not in
them. Failed requests count nowhere but in their own line.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from mell_jax.bench.report import line, title
from mell_jax.bench.stats import Summary, summarize


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record is of one request; times are seconds on one clock, from any start."""

    input_tokens: int
    due_s: float  # when it should have been sent
    sent_s: float
    chunks: tuple[tuple[float, int], ...]  # when, and how many tokens it brought
    cached_tokens: int = 0  # of the input, from the prefix cache
    error: str = ""  # empty for a success

    @property
    def output_tokens(self) -> int:
        return sum(tokens for _, tokens in self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingMetrics:
    """The metrics are those of a run; latencies are in milliseconds."""

    completed: int
    failed: int
    duration_s: float
    total_input_tokens: int
    total_output_tokens: int
    cached_input_tokens: int
    request_throughput: float  # requests/s
    output_throughput: float  # tokens/s
    total_token_throughput: float  # tokens/s, input and output
    tokens_per_chunk: float
    max_send_lag_ms: float  # how late the client itself was, at worst
    ttft_ms: Summary
    tpot_ms: Summary
    itl_ms: Summary
    e2el_ms: Summary
    errors: tuple[str, ...]  # each different one once


def measure(records: Sequence[Record], *, duration_s: float) -> ServingMetrics:
    """Adds up a run of `duration_s`.

    Raises:
      ValueError: the duration is not positive.
    """
    if not (duration_s > 0.0):
        raise ValueError(f"duration_s must be positive, got {duration_s}")
    done = [record for record in records if not record.error]
    inputs = sum(record.input_tokens for record in done)
    outputs = sum(record.output_tokens for record in done)
    chunks = sum(len(record.chunks) for record in done)
    lags = [record.sent_s - record.due_s for record in records]
    return ServingMetrics(
        completed=len(done),
        failed=len(records) - len(done),
        duration_s=duration_s,
        total_input_tokens=inputs,
        total_output_tokens=outputs,
        cached_input_tokens=sum(record.cached_tokens for record in done),
        request_throughput=len(done) / duration_s,
        output_throughput=outputs / duration_s,
        total_token_throughput=(inputs + outputs) / duration_s,
        tokens_per_chunk=outputs / chunks if chunks else 0.0,
        max_send_lag_ms=1e3 * max(lags, default=0.0),
        ttft_ms=summarize([1e3 * ttft_s(record) for record in done]),
        tpot_ms=summarize(
            [1e3 * tpot_s(record) for record in done if record.output_tokens > 1]
        ),
        itl_ms=summarize([1e3 * gap for record in done for gap in gaps_s(record)]),
        e2el_ms=summarize([1e3 * e2el_s(record) for record in done]),
        errors=tuple(sorted({record.error for record in records if record.error})),
    )


def ttft_s(record: Record) -> float:
    """Returns time to first token."""
    return record.chunks[0][0] - record.sent_s


def e2el_s(record: Record) -> float:
    """Returns end-to-end latency."""
    return record.chunks[-1][0] - record.sent_s


def tpot_s(record: Record) -> float:
    """Returns time per output token after the first; needs two tokens."""
    return (e2el_s(record) - ttft_s(record)) / (record.output_tokens - 1)


def gaps_s(record: Record) -> list[float]:
    """Returns inter-token latencies: one per chunk after the first."""
    return [
        after - before for (before, _), (after, _) in itertools.pairwise(record.chunks)
    ]


def render(metrics: ServingMetrics) -> str:
    """Returns the table that users of vLLM's benchmark know."""
    parts = [
        title("Serving Benchmark Result"),
        line("Successful requests", metrics.completed),
        line("Failed requests", metrics.failed),
        line("Benchmark duration (s)", metrics.duration_s),
        line("Total input tokens", metrics.total_input_tokens),
        line("  of these from the prefix cache", metrics.cached_input_tokens),
        line("Total generated tokens", metrics.total_output_tokens),
        line("Request throughput (req/s)", metrics.request_throughput),
        line("Output token throughput (tok/s)", metrics.output_throughput),
        line("Total token throughput (tok/s)", metrics.total_token_throughput),
        line("Tokens per chunk", metrics.tokens_per_chunk),
    ]
    for name, meaning, summary in (
        ("TTFT", "Time to First Token", metrics.ttft_ms),
        ("TPOT", "Time per Output Token (excl. 1st token)", metrics.tpot_ms),
        ("ITL", "Inter-token Latency", metrics.itl_ms),
        ("E2EL", "End-to-end Latency", metrics.e2el_ms),
    ):
        parts += [
            title(meaning, fill="-"),
            line(f"Mean {name} (ms)", summary.mean),
            line(f"Median {name} (ms)", summary.median),
            line(f"P99 {name} (ms)", summary.p99),
        ]
    parts.append(title(""))
    parts += [f"failed: {error}" for error in metrics.errors]
    return "\n".join(parts)

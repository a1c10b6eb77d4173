"""Measures what front ends cost per message, and what they do to the engine's steps.

The engine is a metronome that gives every stream a token per step (`metronome`), so
that only the service is measured: for each number of streams

    CPU per message    of the front ends' processes, user and system, and beside it
                       that of a gRPC server which only sends (`bare_stream`)
    late               from the end of a step to the client's event loop, per token
    step               of the engine's thread without the waiting, and its CPU time
"""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from benchmarks.service.metronome import CLOCK_US
from benchmarks.service.server import (
    CHANNELS,
    RunningServer,
    channels,
    generate,
    running,
)
from mell_jax.bench.report import table
from mell_jax.bench.stats import Summary, median, summarize
from mell_jax.serving.loop import run_loop

SETTLING_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceResult:
    """The result is that of one number of streams."""

    streams: int
    messages_per_s: float
    tokens_per_message: float
    cpu_us_per_message: float
    bare_cpu_us_per_message: float
    late_ms: Summary
    step_ms: float  # median
    step_cpu_ms: float  # median


@dataclass(slots=True, kw_only=True)
class StreamTally:
    """Clients received this while it counted."""

    messages: int = 0
    late_ms: list[float] = dataclasses.field(default_factory=list)
    is_counting: bool = False

    def see(self, tokens: Sequence[int]) -> None:
        if not self.is_counting or not tokens:
            return
        now_us = int(1e6 * time.monotonic())
        self.messages += 1
        self.late_ms += [1e-3 * ((now_us - token) % CLOCK_US) for token in tokens]


def render(results: Sequence[ServiceResult]) -> str:
    """Returns a row per number of streams; steps also as multiples of the first's."""
    first = results[0]
    return table(
        (
            *("streams", "messages/s", "tokens each", "CPU us each", "bare gRPC"),
            *("late p50 ms", "late p99 ms", "step ms", "ratio", "CPU ms", "ratio"),
        ),
        [
            (
                str(r.streams),
                r.messages_per_s,
                r.tokens_per_message,
                r.cpu_us_per_message,
                r.bare_cpu_us_per_message,
                r.late_ms.median,
                r.late_ms.p99,
                r.step_ms,
                r.step_ms / first.step_ms,
                r.step_cpu_ms,
                r.step_cpu_ms / first.step_cpu_ms,
            )
            for r in results
        ],
    )


def measure(
    streams: int, *, step_ms: float, frontends: int, seconds: float
) -> ServiceResult:
    """Starts a server, opens streams, counts for a while.

    Raises:
      RuntimeError: the server does not start.
    """
    with running("metronome", step_ms, frontends, streams) as server:
        tally, cpu_s = run_loop(_drive(server, streams=streams, seconds=seconds))
        times = server.end()
    with running("bare_stream", step_ms) as bare:
        sent, bare_cpu_s = run_loop(_drive(bare, streams=streams, seconds=seconds))
        bare.end()
    full = [(s, cpu) for rows, s, cpu in times if rows == streams]
    return ServiceResult(
        streams=streams,
        messages_per_s=tally.messages / seconds,
        tokens_per_message=len(tally.late_ms) / tally.messages,
        cpu_us_per_message=1e6 * cpu_s / tally.messages,
        bare_cpu_us_per_message=1e6 * bare_cpu_s / sent.messages,
        late_ms=summarize(tally.late_ms),
        step_ms=1e3 * median([s for s, _ in full]),
        step_cpu_ms=1e3 * median([cpu for _, cpu in full]),
    )


async def _drive(
    server: RunningServer, *, streams: int, seconds: float
) -> tuple[StreamTally, float]:
    """What came while it counted, and the front ends' CPU seconds meanwhile."""
    tally, opened = StreamTally(), asyncio.Semaphore(0)
    async with channels(server.address, count=min(CHANNELS, streams)) as links:
        readers = [
            asyncio.ensure_future(
                read(links[i % len(links)], tally=tally, opened=opened)
            )
            for i in range(streams)
        ]
        for _ in range(streams):
            await opened.acquire()
        await asyncio.sleep(SETTLING_S)
        before_s, tally.is_counting = server.cpu_s(), True
        await asyncio.sleep(seconds)
        after_s, tally.is_counting = server.cpu_s(), False
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return tally, after_s - before_s


async def read(
    channel: grpc.aio.Channel, *, tally: StreamTally, opened: asyncio.Semaphore
) -> None:
    """Opens a stream without an end and counts what comes until it is cancelled."""
    call = generate(channel, ignore_eos=True)
    await call.read()
    opened.release()
    while (response := await call.read()) is not grpc.aio.EOF:
        tally.see(response.chunk.token_ids)

"""Measures how fast a server refuses ten times as many clients as it lets in.

`CAPACITY` streams get a token per step. All others are refused, and come back

    in turn    each when it was told to (`RETRY_S`), evenly spread over that time
    at once    all in the same moment, so that the last one waits for all the others

Times are from the client's call to its status, in the client's event loop.
"""

import asyncio
import time
from dataclasses import dataclass

import grpc

from benchmarks.service.server import (
    CHANNELS,
    RunningServer,
    channels,
    generate,
    running,
)
from benchmarks.service.streams import SETTLING_S, StreamTally, read
from mell_jax.bench.report import line
from mell_jax.bench.stats import Summary, summarize
from mell_jax.serving.loop import run_loop

CAPACITY, TIMES = 64, 10
BURSTS = 5
RETRY_S = 1.0  # what a server says that has nothing else to go by


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodResult:
    """The result is that of one server."""

    capacity: int  # streams that are let in
    refused: int  # clients beside them
    refusals_per_s: float  # in turn
    in_turn_ms: Summary
    at_once_ms: Summary
    late_ms: Summary  # tokens of those that were let in, meanwhile (in turn)


def measure_flood(*, step_ms: float, frontends: int, seconds: float) -> FloodResult:
    """Starts a server, fills it, and asks for more.

    Raises:
      RuntimeError: the server does not start, or lets more in.
    """
    with running("metronome", step_ms, frontends, CAPACITY, CAPACITY) as server:
        return run_loop(_drive(server, seconds=seconds))


def render_flood(flood: FloodResult) -> str:
    """Returns a line per figure."""
    return "\n".join(
        (
            f"{flood.refused} clients more than the {flood.capacity} that are let in",
            line("refusals/s", flood.refusals_per_s),
            line("refused in turn, p50 ms", flood.in_turn_ms.median),
            line("refused in turn, p99 ms", flood.in_turn_ms.p99),
            line("refused all at once, p50 ms", flood.at_once_ms.median),
            line("refused all at once, p99 ms", flood.at_once_ms.p99),
            line("tokens late meanwhile, p99 ms", flood.late_ms.p99),
        )
    )


async def _drive(server: RunningServer, *, seconds: float) -> FloodResult:
    tally, opened = StreamTally(), asyncio.Semaphore(0)
    async with channels(server.address, count=2 * CHANNELS) as links:
        readers = [
            asyncio.ensure_future(read(links[i % CHANNELS], tally=tally, opened=opened))
            for i in range(CAPACITY)
        ]
        for _ in range(CAPACITY):
            await opened.acquire()
        await asyncio.sleep(SETTLING_S)
        tally.is_counting = True
        in_turn_ms = await _ask_in_turn(links[CHANNELS:], seconds=seconds)
        tally.is_counting = False
        at_once_ms = []
        for _ in range(BURSTS):
            at_once_ms += await _ask_at_once(links[CHANNELS:])
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return FloodResult(
        capacity=CAPACITY,
        refused=(TIMES - 1) * CAPACITY,
        refusals_per_s=len(in_turn_ms) / seconds,
        in_turn_ms=summarize(in_turn_ms),
        at_once_ms=summarize(at_once_ms),
        late_ms=summarize(tally.late_ms),
    )


async def _ask_in_turn(links: list[grpc.aio.Channel], *, seconds: float) -> list[float]:
    """Clients that come back when they were told to, until the time is over."""
    clients, took_ms = (TIMES - 1) * CAPACITY, []
    end_s = time.monotonic() + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(RETRY_S * number / clients)
        while time.monotonic() < end_s:
            took_ms.append(await _be_refused(links[number % len(links)]))
            await asyncio.sleep(RETRY_S)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return took_ms


async def _ask_at_once(links: list[grpc.aio.Channel]) -> list[float]:
    clients = (TIMES - 1) * CAPACITY
    return await asyncio.gather(
        *(_be_refused(links[number % len(links)]) for number in range(clients))
    )


async def _be_refused(channel: grpc.aio.Channel) -> float:
    """Milliseconds until the refusal.

    Raises:
      RuntimeError: it is none.
    """
    start_s = time.monotonic()
    call = generate(channel, ignore_eos=True)
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise RuntimeError(f"a request too many ended with {error}") from error
        return 1e3 * (time.monotonic() - start_s)
    raise RuntimeError(f"more than {CAPACITY} streams were let in")

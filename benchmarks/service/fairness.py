"""Measures how long a light tenant waits beside one that floods the server.

    alone     one short request after another, time to the first token of each
    beside    the same, while another tenant keeps `FLOOD` requests of `TOKENS` open

The engine is a real one. The light tenant's first token should take at most twice as
long beside the flood as alone.
"""

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass

import grpc

from benchmarks.service.engine_server import dump_config
from benchmarks.service.server import RunningServer, channels, generate, running
from mell_jax.bench.report import line
from mell_jax.bench.stats import Summary, summarize
from mell_jax.engine.config import EngineConfig
from mell_jax.serving.loop import run_loop

FLOOD, TOKENS = 64, 100  # requests open at once, output tokens of each
SHORT = 3  # output tokens of the light tenant's requests
CHANNELS = 8
WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessResult:
    """The result is that of one server; times to the first token."""

    alone_ms: Summary
    beside_ms: Summary
    same_ms: Summary  # beside a flood under the light one's own name: no fairness
    flood_tokens_per_s: float  # that the flood got beside the light one


def measure_fairness(
    engine: EngineConfig, *, frontends: int, seconds: float
) -> FairnessResult:
    """Starts a server and asks it for short answers, alone and beside a flood.

    Raises:
      RuntimeError: the server does not start.
    """
    with running("engine_server", frontends, dump_config(engine), "open") as server:
        result = run_loop(_drive(server, seconds=seconds))
        server.end()
    return result


def render_fairness(result: FairnessResult) -> str:
    """Returns a line per figure."""
    alone, beside, same = result.alone_ms, result.beside_ms, result.same_ms
    return "\n".join(
        (
            f"a light tenant beside {FLOOD} requests of {TOKENS} tokens of another one",
            line("first token alone, p50 ms", alone.median),
            line("first token alone, p99 ms", alone.p99),
            line("first token beside the flood, p50 ms", beside.median),
            line("first token beside the flood, p99 ms", beside.p99),
            line("times as long, p50", beside.median / alone.median),
            line("times as long, p99", beside.p99 / alone.p99),
            line("as one tenant with the flood, p50 ms", same.median),
            line("the flood's tokens per second", result.flood_tokens_per_s),
        )
    )


async def _drive(server: RunningServer, *, seconds: float) -> FairnessResult:
    async with channels(server.address, count=2 * CHANNELS) as links:
        await _ask_on(links[0], seconds=WARM_UP_S)
        alone_ms = await _ask_on(links[0], seconds=seconds)
        beside_ms, speed = await _ask_beside(links, flood="flood", seconds=seconds)
        same_ms, _ = await _ask_beside(links, flood="light", seconds=seconds)
    return FairnessResult(
        alone_ms=summarize(alone_ms),
        beside_ms=summarize(beside_ms),
        same_ms=summarize(same_ms),
        flood_tokens_per_s=speed,
    )


async def _ask_beside(
    links: list[grpc.aio.Channel], *, flood: str, seconds: float
) -> tuple[list[float], float]:
    """Milliseconds to each first token while the tenant `flood` floods the server.

    The second is how many tokens the flood got per second meanwhile.
    """
    tokens: Counter[str] = Counter()
    heavy = [
        asyncio.ensure_future(
            _read_on(links[1 + i % (len(links) - 1)], tenant=flood, tokens=tokens)
        )
        for i in range(FLOOD)
    ]
    await asyncio.sleep(WARM_UP_S)
    before, start_s = tokens[flood], time.monotonic()
    took_ms = await _ask_on(links[0], seconds=seconds)
    speed = (tokens[flood] - before) / (time.monotonic() - start_s)
    for task in heavy:
        task.cancel()
    for task in heavy:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return took_ms, speed


async def _ask_on(channel: grpc.aio.Channel, *, seconds: float) -> list[float]:
    """Milliseconds to each first token of requests that follow one another."""
    took_ms: list[float] = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s or not took_ms:
        start_s = time.monotonic()
        call = generate(channel, tenant="light", ignore_eos=True, max_tokens=SHORT)
        await call.read()
        took_ms.append(1e3 * (time.monotonic() - start_s))
        while await call.read() is not grpc.aio.EOF:
            pass
    return took_ms


async def _read_on(
    channel: grpc.aio.Channel, *, tenant: str, tokens: Counter[str]
) -> None:
    """Asks for long answers, one after the other, until it is cancelled."""
    while True:
        call = generate(channel, tenant=tenant, ignore_eos=True, max_tokens=TOKENS)
        while (answer := await call.read()) is not grpc.aio.EOF:
            tokens[tenant] += len(answer.chunk.token_ids)

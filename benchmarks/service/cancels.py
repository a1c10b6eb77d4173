"""Measures how soon a request's pages are free when its client leaves in its middle.

The engine is a real one and busy with `OTHERS` more streams. One stream after another
is opened, read a little, and cancelled:

    client cancels -> front end notices -> engine hears of it -> step ends -> pages free
    |------------------------------- left_ms -------------------------------|
                                           |------ steps, heard_ms ------|
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from benchmarks.service.engine_server import dump_config
from benchmarks.service.server import (
    CHANNELS,
    RunningServer,
    channels,
    generate,
    running,
)
from mell_jax.bench.report import line
from mell_jax.bench.stats import Summary, summarize
from mell_jax.engine.config import EngineConfig
from mell_jax.serving.loop import run_loop

OTHERS = 8
PAUSE_S = 0.02  # between cancels, so that they are told apart


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelResult:
    """The result is that of one server."""

    cancels: int
    steps: Summary  # that ended before the pages were free
    heard_ms: Summary  # from the engine's hearing of it
    left_ms: Summary  # from the client's leaving
    used_pages: int  # at the end, of requests that are all over


def measure_cancels(
    engine: EngineConfig, *, frontends: int, seconds: float
) -> CancelResult:
    """Starts a server, keeps it busy, and leaves again and again.

    Raises:
      RuntimeError: the server does not start, or has missed a cancel.
    """
    with running("engine_server", frontends, dump_config(engine), "watched") as server:
        left_s = run_loop(_drive(server, seconds=seconds))
        told: dict[str, Any] = server.end()
    freed = match(left_s, freed=told["freed"])
    return CancelResult(
        cancels=len(left_s),
        steps=summarize([each["steps"] for each in freed]),
        heard_ms=summarize([each["waited_ms"] for each in freed]),
        left_ms=summarize(
            [
                1e3 * (each["at_s"] - at_s)
                for each, at_s in zip(freed, left_s, strict=True)
            ]
        ),
        used_pages=told["used_pages"],
    )


def match(
    left_s: Sequence[float], *, freed: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Returns what was freed next after the client left, each time.

    Raises:
      RuntimeError: nothing was, until it left again.
    """
    matched: list[dict[str, Any]] = []
    for since_s, until_s in zip(left_s, [*left_s[1:], math.inf], strict=True):
        found = [each for each in freed if since_s <= each["at_s"] < until_s]
        if not found:
            raise RuntimeError(
                f"the engine heard of {len(matched)} of {len(left_s)} cancels in time"
            )
        matched.append(found[0])
    return matched


def render_cancels(cancels: CancelResult) -> str:
    """Returns a line per figure."""
    return "\n".join(
        (
            f"{cancels.cancels} cancels beside {OTHERS} streams",
            line("steps until pages are free, p50", cancels.steps.median),
            line("steps until pages are free, p99", cancels.steps.p99),
            line("steps until pages are free, max", cancels.steps.max),
            line("heard until free, p99 ms", cancels.heard_ms.p99),
            line("left until free, p50 ms", cancels.left_ms.median),
            line("left until free, p99 ms", cancels.left_ms.p99),
            line("pages in use at the end", cancels.used_pages),
        )
    )


async def _drive(server: RunningServer, *, seconds: float) -> list[float]:
    """When the client left, each time."""
    left_s = []
    async with channels(server.address, count=CHANNELS) as links:
        others = [
            asyncio.ensure_future(_read_on(links[i % len(links)], tenant=f"other{i}"))
            for i in range(OTHERS)
        ]
        end_s = time.monotonic() + seconds
        for number in itertools.count():
            if time.monotonic() >= end_s:
                break
            call = generate(
                links[number % len(links)], tenant="leaving", ignore_eos=True
            )
            await call.read()
            await asyncio.sleep(PAUSE_S)
            left_s.append(time.monotonic())
            call.cancel()
            await asyncio.sleep(PAUSE_S)
        for other in others:
            other.cancel()
        for other in others:
            with contextlib.suppress(asyncio.CancelledError):
                await other
    return left_s


async def _read_on(channel: grpc.aio.Channel, *, tenant: str) -> None:
    """Streams without a pause, until it is cancelled."""
    while True:
        call = generate(channel, tenant=tenant, ignore_eos=True)
        while await call.read() is not grpc.aio.EOF:
            pass

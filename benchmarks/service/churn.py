"""Measures what memory does while requests come and go in every way there is.

`WORKERS` clients, each with one request at a time, of these kinds in turn:

    whole answer | aborted by id | client leaves | refused | invalid

The resident memory of both processes is looked at every second. Its slope over the
later half is the figure: a leak grows for ever, caches fill and stop.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from tqdm import tqdm

from benchmarks.service.engine_server import MAX_TENANT_OPEN, dump_config
from benchmarks.service.server import (
    CHANNELS,
    RunningServer,
    abort,
    channels,
    count_open,
    generate,
    running,
)
from benchmarks.service.slope import settled_slope
from mell_jax.bench.report import line
from mell_jax.engine.config import EngineConfig
from mell_jax.serving.loop import run_loop

WORKERS = 16
LOOK_S = 1.0
_PATIENCE = 100  # looks, a tenth of `LOOK_S` apart, until nothing is open
_LONG: dict[str, Any] = {"ignore_eos": True, "max_tokens": 100}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnResult:
    """The result is that of one server; memory is resident, in MiB."""

    minutes: float
    requests: int
    front_mb_per_min: float
    engine_mb_per_min: float
    front_mb: tuple[float, float]  # first and last
    engine_mb: tuple[float, float]
    open_requests: int  # at the end
    used_pages: int  # at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    at_min: float
    front_mb: float
    engine_mb: float


def measure_churn(
    engine: EngineConfig, *, frontends: int, minutes: float, progress: bool
) -> ChurnResult:
    """Starts a server and makes requests for so long.

    Raises:
      RuntimeError: the server does not start, or answers otherwise than it should.
      ValueError: the time is too short for a slope.
    """
    with running("engine_server", frontends, dump_config(engine)) as server:
        looks, requests, num_open = run_loop(
            _drive(server, minutes=minutes, progress=progress)
        )
        told: dict[str, Any] = server.end()
    at_min = [look.at_min for look in looks]
    front_mb = [look.front_mb for look in looks]
    engine_mb = [look.engine_mb for look in looks]
    return ChurnResult(
        minutes=minutes,
        requests=requests,
        front_mb_per_min=settled_slope(at_min, front_mb),
        engine_mb_per_min=settled_slope(at_min, engine_mb),
        front_mb=(front_mb[0], front_mb[-1]),
        engine_mb=(engine_mb[0], engine_mb[-1]),
        open_requests=num_open,
        used_pages=told["used_pages"],
    )


def render_churn(churn: ChurnResult) -> str:
    """Returns a line per figure."""
    return "\n".join(
        (
            f"{churn.requests} requests in {churn.minutes:g} minutes",
            line("front end, MB/min", churn.front_mb_per_min),
            line("front end at the end, MB", churn.front_mb[1]),
            line("engine, MB/min", churn.engine_mb_per_min),
            line("engine at the end, MB", churn.engine_mb[1]),
            line("open requests at the end", churn.open_requests),
            line("pages in use at the end", churn.used_pages),
        )
    )


async def _drive(
    server: RunningServer, *, minutes: float, progress: bool
) -> tuple[list[_Look], int, int]:
    """Memory each second, how many requests were made, how many are open after."""
    begun_s = time.monotonic()
    numbers, looks = itertools.count(), []
    async with channels(server.address, count=CHANNELS) as links:
        workers = [
            asyncio.ensure_future(
                _work(
                    links[i % len(links)], numbers=numbers, end_s=begun_s + 60 * minutes
                )
            )
            for i in range(WORKERS)
        ]
        with tqdm(desc="churn", unit="s", disable=not progress) as bar:
            while not all(worker.done() for worker in workers):
                looks.append(
                    _Look(
                        at_min=(time.monotonic() - begun_s) / 60,
                        front_mb=server.front_mb(),
                        engine_mb=server.engine_mb(),
                    )
                )
                bar.update()
                done, _ = await asyncio.wait(
                    workers, timeout=LOOK_S, return_when=asyncio.FIRST_EXCEPTION
                )
                for worker in done:
                    worker.result()
        num_open = await _settle(links[0])
    return looks, next(numbers), num_open


async def _settle(channel: grpc.aio.Channel) -> int:
    """Requests that stay open."""
    for _ in range(_PATIENCE):
        if not (num_open := await count_open(channel)):
            break
        await asyncio.sleep(0.1 * LOOK_S)
    return num_open


async def _work(
    channel: grpc.aio.Channel, *, numbers: "itertools.count[int]", end_s: float
) -> None:
    while time.monotonic() < end_s:
        number = next(numbers)
        tenant, prompt = f"tenant{number}", (1 + number % 200, *range(1, 20))
        match number % 5:
            case 0:
                await _read(channel, prompt, tenant=tenant, max_tokens=20)
            case 1:
                await _be_aborted(channel, prompt, tenant=tenant)
            case 2:
                call = generate(channel, prompt, tenant=tenant, **_LONG)
                await call.read()
                call.cancel()
            case 3:
                call = generate(channel, prompt, tenant=tenant, **_LONG)
                await call.read()
                refused = _read(channel, prompt, tenant=tenant, n=MAX_TENANT_OPEN)
                await _fail(refused, code=grpc.StatusCode.RESOURCE_EXHAUSTED)
                call.cancel()
            case 4:
                bad = _read(channel, prompt, tenant=tenant, temperature=-1.0)
                await _fail(bad, code=grpc.StatusCode.INVALID_ARGUMENT)


async def _read(
    channel: grpc.aio.Channel, prompt: Sequence[int], *, tenant: str, **sampling: Any
) -> None:
    call = generate(channel, prompt, tenant=tenant, **sampling)
    while await call.read() is not grpc.aio.EOF:
        pass


async def _be_aborted(
    channel: grpc.aio.Channel, prompt: Sequence[int], *, tenant: str
) -> None:
    call = generate(channel, prompt, tenant=tenant, request_id=tenant, **_LONG)
    await call.read()
    await abort(channel, tenant)
    while await call.read() is not grpc.aio.EOF:
        pass


async def _fail(answer: Awaitable[None], *, code: grpc.StatusCode) -> None:
    """Waits for the end of a request that must fail so.

    Raises:
      RuntimeError: it does not.
    """
    try:
        await answer
    except grpc.aio.AioRpcError as error:
        if error.code() is code:
            return
        raise RuntimeError(f"not {code} but {error}") from error
    raise RuntimeError(f"not {code} but an answer")

"""`--suite=service`: what front ends cost, and what they do to the engine's steps.

The engine is a metronome that gives every stream a token per step (`metronome`), so
that only the service is measured: for each number of streams

    CPU per message    of the front ends' processes, user and system
    late               from the end of a step to the client's event loop, per token
    step               of the engine's thread without the waiting, and its CPU time

The client runs on the same machine and needs about as much as a front end: with fewer
than three cores the figures of many streams are the machine's, not the service's.
"""

import asyncio
import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import grpc
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from tqdm import tqdm

from mell_jax.bench.metronome import CLOCK_US
from mell_jax.bench.report import Report, table
from mell_jax.bench.stats import Summary, median, summarize
from mell_jax.serving.loop import run_loop

SETTLING_S = 1.0
CHANNELS = 4
_METHOD = "/vllm.grpc.engine.VllmEngine/Generate"
_TICKS_PER_S = 100  # USER_HZ of every Linux there is


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """One run.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    streams: tuple[int, ...] = (1, 64, 512, 1024)
    frontends: int = 1  # 0: in the engine's process
    step_ms: float = 20.0
    seconds: float = 5.0  # that count, of each number of streams

    def __post_init__(self) -> None:
        if not (self.streams and min(self.streams) >= 1):
            raise ValueError(f"batch_sizes must be positive, got {self.streams}")
        if not (0 <= self.frontends <= 64):
            raise ValueError(f"frontends must be from 0 to 64, got {self.frontends}")
        for name in ("step_ms", "seconds"):
            if not (getattr(self, name) > 0.0):
                raise ValueError(f"{name} must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceResult:
    """Of one number of streams."""

    streams: int
    messages_per_s: float
    tokens_per_message: float
    cpu_us_per_message: float
    late_ms: Summary
    step_ms: float  # median
    step_cpu_ms: float  # median


@dataclass(slots=True, kw_only=True)
class Tally:
    """What clients received while it counted."""

    messages: int = 0
    late_ms: list[float] = dataclasses.field(default_factory=list)
    is_counting: bool = False

    def see(self, tokens: Sequence[int]) -> None:
        if not self.is_counting or not tokens:
            return
        now_us = int(1e6 * time.monotonic())
        self.messages += 1
        self.late_ms += [1e-3 * ((now_us - token) % CLOCK_US) for token in tokens]


def run_service(settings: ServiceSettings, *, progress: bool) -> Report:
    """Measures all numbers of streams, each with a server of its own.

    Raises:
      RuntimeError: the server does not start.
    """
    bar = tqdm(settings.streams, desc="service", unit="run", disable=not progress)
    results = [measure(settings, streams=streams) for streams in bar]
    where = f"{settings.frontends} front ends" if settings.frontends else "in process"
    return Report(
        suite="service",
        text=f"steps of {settings.step_ms:g} ms, {where}\n\n{render(results)}",
        results={"streams": [dataclasses.asdict(result) for result in results]},
    )


def render(results: Sequence[ServiceResult]) -> str:
    """A row per number of streams; steps also as multiples of the first row's."""
    first = results[0]
    return table(
        (
            *("streams", "messages/s", "tokens each", "CPU us each"),
            *("late p50 ms", "late p99 ms", "step ms", "ratio", "CPU ms", "ratio"),
        ),
        [
            (
                str(r.streams),
                r.messages_per_s,
                r.tokens_per_message,
                r.cpu_us_per_message,
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


def measure(settings: ServiceSettings, *, streams: int) -> ServiceResult:
    """Starts a server, opens streams, counts for a while.

    Raises:
      RuntimeError: the server does not start.
    """
    with running(settings, streams=streams) as server:
        tally, cpu_s = run_loop(_drive(server, settings, streams=streams))
        times = server.end()
    full = [(s, cpu) for rows, s, cpu in times if rows == streams]
    return ServiceResult(
        streams=streams,
        messages_per_s=tally.messages / settings.seconds,
        tokens_per_message=len(tally.late_ms) / tally.messages,
        cpu_us_per_message=1e6 * cpu_s / tally.messages,
        late_ms=summarize(tally.late_ms),
        step_ms=1e3 * median([s for s, _ in full]),
        step_cpu_ms=1e3 * median([cpu for _, cpu in full]),
    )


@final
class MetronomeServer:
    """A running server, and the processes that talk to clients."""

    def __init__(self, process: subprocess.Popen[str], *, address: str) -> None:
        self.address = address
        self._process = process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        self._fronts = [int(pid) for pid in children.split()] or [process.pid]

    def cpu_s(self) -> float:
        """User and system time of the front ends so far."""
        return sum(_cpu_s(pid) for pid in self._fronts)

    def end(self) -> list[tuple[int, float, float]]:
        """Ends it; rows, seconds and CPU seconds of each step."""
        self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate()
        times: list[tuple[int, float, float]] = json.loads(out.splitlines()[-1])
        return times


@contextlib.contextmanager
def running(settings: ServiceSettings, *, streams: int) -> Iterator[MetronomeServer]:
    """A metronome behind a server, as a process.

    Raises:
      RuntimeError: it does not start.
    """
    command = [
        *(sys.executable, "-m", "mell_jax.bench.metronome"),
        *(str(settings.step_ms), str(settings.frontends), str(streams)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError("the server does not start; it says why above")
            yield MetronomeServer(process, address=address)
        finally:
            process.kill()


async def _drive(
    server: MetronomeServer, settings: ServiceSettings, *, streams: int
) -> tuple[Tally, float]:
    """What came while it counted, and the front ends' CPU seconds meanwhile."""
    tally, opened = Tally(), asyncio.Semaphore(0)
    async with _channels(server.address, count=min(CHANNELS, streams)) as channels:
        readers = [
            asyncio.ensure_future(
                _read(channels[i % len(channels)], tally=tally, opened=opened)
            )
            for i in range(streams)
        ]
        for _ in range(streams):
            await opened.acquire()
        await asyncio.sleep(SETTLING_S)
        before_s, tally.is_counting = server.cpu_s(), True
        await asyncio.sleep(settings.seconds)
        after_s, tally.is_counting = server.cpu_s(), False
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return tally, after_s - before_s


async def _read(
    channel: grpc.aio.Channel, *, tally: Tally, opened: asyncio.Semaphore
) -> None:
    call = channel.unary_stream(
        _METHOD, response_deserializer=pb.GenerateResponse.FromString
    )(
        pb.GenerateRequest(
            tokenized=pb.TokenizedInput(input_ids=[1]),
            sampling_params=pb.SamplingParams(ignore_eos=True),
            stream=True,
        ).SerializeToString()
    )
    await call.read()
    opened.release()
    while (response := await call.read()) is not grpc.aio.EOF:
        tally.see(response.chunk.token_ids)


@contextlib.asynccontextmanager
async def _channels(
    address: str, *, count: int
) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Connections of their own, as several clients have."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(address, options=options)
            )
            for _ in range(count)
        ]


def _cpu_s(pid: int) -> float:
    """User and system time of a process, as Linux tells it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

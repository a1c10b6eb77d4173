"""Readers that are silent for five minutes of the engine's time, through every door.

The engine runs as fast as it goes, so that these minutes pass in seconds.
"""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.bench.stats import median
from mell_jax.engine.frames import FinishReason
from mell_jax.engine.thread import EngineThread
from mell_jax.serving.address import Addresses
from mell_jax.worker.compilation import CompilationCounter
from tests.serving.clockwork import Clockwork, count_up
from tests.serving.harness import ids_request
from tests.serving.kserve.asking import ask, stub_of
from tests.serving.processes.stage import fronts, supervise

STEPS = 15_000  # of 20 ms: five minutes
FOREVER = 10**6
GOOD = 2
SAMPLES = {"grpc": 16, "kserve": 16, "http": 64}
SILENT = 96  # of all three
LEAST_OPEN, MOST_OPEN = 1 + 1 + 1, 1 + 16 + 4
"""Requests. Parts that a busy front end sends as one are shorter: some may fit in."""
MOST_GROWTH_MB = 40
"""A token that waits has 4 bytes, so those of all take 6 MB; sockets hold 4 more."""


@contextlib.asynccontextmanager
async def silent_readers(addresses: Addresses, *, tokens: int) -> AsyncIterator[None]:
    """One through each door, with as many answers on the way as `SAMPLES` says."""
    options = [("grpc.http2.bdp_probe", 0)]  # windows stay at 64 KiB
    async with grpc.aio.insecure_channel(addresses.grpc, options=options) as channel:
        stub = pb_grpc.VllmEngineStub(channel)
        calls = [
            stub.Generate(ids_request(1, n=SAMPLES["grpc"], max_tokens=tokens)),
            stub_of(channel).ModelStreamInfer(),
        ]
        for _ in range(SAMPLES["kserve"]):
            await calls[1].write(ask("a", sampling={"max_tokens": tokens}))
        with socket.socket() as sock:
            await asyncio.to_thread(_ask_http, sock, addresses, tokens=tokens)
            yield
            for call in calls:
                call.cancel()


def _ask_http(sock: socket.socket, addresses: Addresses, *, tokens: int) -> None:
    assert addresses.http is not None
    host, _, port = addresses.http.rpartition(":")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, int(port)))
    asked = {"prompt": ["a"] * 4, "n": 16, "max_tokens": tokens, "stream": True}
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}"
    sock.sendall(head.encode() + b"\r\n\r\n" + body)


async def read(stub: pb_grpc.VllmEngineStub, first: int, *, count: int) -> list[int]:
    """What a good reader gets."""
    call = stub.Generate(ids_request(first, max_tokens=count))
    return [token async for part in call for token in part.chunk.token_ids]


async def num_open(stub: pb_grpc.VllmEngineStub) -> int:
    info = await stub.GetServerInfo(pb.GetServerInfoRequest())
    return info.active_requests


async def wait_for_none(stub: pb_grpc.VllmEngineStub) -> None:
    end_s = time.monotonic() + 60.0
    while open_now := await num_open(stub):
        assert time.monotonic() < end_s, f"{open_now} requests are open"


async def five_minutes(
    engine: Clockwork, addresses: Addresses, *, silent_tokens: int, is_stalled: bool
) -> None:
    (front,) = fronts()
    async with (
        grpc.aio.insecure_channel(addresses.grpc) as channel,
        silent_readers(addresses, tokens=silent_tokens),
    ):
        stub = pb_grpc.VllmEngineStub(channel)
        good = [
            asyncio.ensure_future(read(stub, first, count=STEPS))
            for first in range(1, 1 + GOOD)
        ]
        for _ in range(GOOD + SILENT):
            assert await asyncio.to_thread(engine.submitted.acquire, timeout=30)
        before = front.memory_info().rss
        engine.may_step.set()
        for first, answer in enumerate(await asyncio.gather(*good), start=1):
            assert answer == count_up(first, count=STEPS)
        assert engine.now_s >= 299.0
        grown_mb = (front.memory_info().rss - before) / 2**20
        assert grown_mb < MOST_GROWTH_MB
        assert await read(stub, 29, count=4) == [30, 1, 2, 3]
        if is_stalled:
            await wait_for_none(stub)  # they are still silent, and ended nevertheless
        else:
            assert engine.live == {}
            await asyncio.sleep(0.5)  # for what the engine has sent
            assert LEAST_OPEN <= await num_open(stub) <= MOST_OPEN  # last words wait
    # And those that were not ended have left by now.
    async with grpc.aio.insecure_channel(addresses.grpc) as channel:
        await wait_for_none(pb_grpc.VllmEngineStub(channel))
    assert fronts() == [front]


@pytest.mark.parametrize(
    ("stall_timeout_s", "silent_tokens", "ends"),
    [
        (2.0, FOREVER, {FinishReason.LENGTH: GOOD + 1, FinishReason.ABORT: SILENT}),
        (60.0, STEPS, {FinishReason.LENGTH: GOOD + 1 + SILENT}),
    ],
    ids=["ended", "left alone"],
)
def test_silent_readers_never_block_a_step_nor_fill_the_memory(
    letters_dir: Path,
    stall_timeout_s: float,
    silent_tokens: int,
    ends: dict[FinishReason, int],
) -> None:
    engine = Clockwork()

    def act(addresses: Addresses, _: threading.Event) -> None:
        script = five_minutes(
            engine,
            addresses,
            silent_tokens=silent_tokens,
            is_stalled=silent_tokens == FOREVER,
        )
        asyncio.run(asyncio.wait_for(script, timeout=100))

    thread: Any = EngineThread(engine, compilations=CompilationCounter())
    cause = supervise(
        act,
        engine=thread,
        tokenizer_dir=letters_dir,
        http_port=0,
        stall_timeout_s=stall_timeout_s,
    )
    assert cause == ""
    assert engine.ends == ends
    assert engine.live == {}
    assert max(engine.laps_s) < 1.0
    assert median(engine.laps_s) < 0.02

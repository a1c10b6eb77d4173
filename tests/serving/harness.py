"""A real server on a real socket in this process, mostly with the fake engine.

The one way to a server that a test looks into. `fake_server` has the same as a process
of its own, `processes.stage` has front ends in processes before an engine in this one,
and `running` has `mell-serve` with a model.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.frontend import EngineLink
from mell_jax.serving.address import Addresses
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.served_model import ServedModel
from mell_jax.serving.server import Server
from mell_jax.text.tokenizer import load_tokenizer
from tests.serving.fake_engine import FakeEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    engine: FakeEngine
    server: Server
    address: str
    http: str | None  # its address
    channel: grpc.aio.Channel
    stub: pb_grpc.VllmEngineStub

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for the engine, without stopping the loop."""
        await asyncio.to_thread(self.engine.wait_until, condition)

    async def idle(self) -> None:
        """Waits until nothing holds pages in the engine."""
        await self.server.front_end.wait_idle()
        assert self.engine.num_live == 0

    async def collect(
        self, request: pb.GenerateRequest, **kwargs: Any
    ) -> list[pb.GenerateResponse]:
        return [response async for response in self.stub.Generate(request, **kwargs)]


@asynccontextmanager
async def listening(
    engine: EngineLink, *, models: Sequence[ServedModel], **config: Any
) -> AsyncIterator[tuple[Server, Addresses]]:
    """A server before any engine, which it starts and stops."""
    settings = ServerConfig(**{"port": 0, **config})
    server = Server(engine, models=models, config=settings)
    engine.start(server.sink(asyncio.get_running_loop()))
    try:
        yield server, await server.start()
    finally:
        await server.stop("the test is over")
        if engine.is_alive:
            await asyncio.to_thread(engine.stop)


@asynccontextmanager
async def serving(
    *,
    directory: Path | None = None,
    is_manual: bool = False,
    drain_s: float = 20.0,
    max_open: int = 4096,
    http_port: int | None = None,
    shows_vllm_names: bool = False,
    fingerprint: str = "",
    **config: Any,
) -> AsyncIterator[Harness]:
    """`directory` holds the letters tokenizer; None serves token ids only."""
    engine = FakeEngine(is_manual=is_manual)
    model = ServedModel(
        name="letters",
        path="/models/letters",
        tokenizer_dir=directory,
        tokenizer=None if directory is None else load_tokenizer(directory),
        fingerprint=fingerprint,
    )
    async with (
        listening(
            engine,
            models=[model],
            drain_s=drain_s,
            max_open=max_open,
            http_port=http_port,
            shows_vllm_names=shows_vllm_names,
            **config,
        ) as (server, addresses),
        grpc.aio.insecure_channel(addresses.grpc) as channel,
    ):
        yield Harness(
            engine=engine,
            server=server,
            address=addresses.grpc,
            http=addresses.http,
            channel=channel,
            stub=pb_grpc.VllmEngineStub(channel),
        )


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), timeout=60))


def ids_request(
    *ids: int, stream: bool = True, request_id: str = "", **sampling: Any
) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        request_id=request_id,
        tokenized=pb.TokenizedInput(input_ids=ids),
        sampling_params=pb.SamplingParams(**sampling),
        stream=stream,
    )


async def error_of(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error a call must end with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"no error but {answer}")

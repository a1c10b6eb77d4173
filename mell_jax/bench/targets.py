"""A serving benchmark sends its requests to a target: a server, or an engine in here.

Both take token ids and answer token ids, as the gRPC contract has it; nothing is
detokenized. The engine in this process runs as under the server, without gRPC.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol, final

import grpc
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.bench.workload import Int32Array
from mell_jax.engine.build import BuiltEngine
from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.frontend import (
    Ask,
    Caller,
    EngineDeadError,
    FrontEnd,
    FrontModel,
    OverloadedError,
    RequestFailedError,
    generate,
)

CONNECT_S = 10.0
MAX_OPEN = 1_000_000


class TargetError(RuntimeError):
    """The target cannot be reached, or failed a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetInfo:
    """The info says what a target serves."""

    name: str
    context: int  # tokens of input and output together
    vocab_size: int
    eos_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPiece:
    """A piece is one chunk of an answer."""

    tokens: int
    cached_tokens: int  # of the prompt, from the prefix cache


class BenchTarget(Protocol):
    """Answers prompts."""

    @property
    def info(self) -> TargetInfo: ...

    def stream(
        self, prompt: Int32Array, *, output_tokens: int, temperature: float
    ) -> AsyncGenerator[StreamPiece]:
        """Generates exactly `output_tokens`, whatever they are.

        Raises:
          TargetError: the request failed.
        """


@final
class GrpcTarget:
    """The target is a server that speaks `vllm.grpc.engine.VllmEngine`."""

    def __init__(self, stub: pb_grpc.VllmEngineStub, *, info: TargetInfo) -> None:
        self.info = info
        self._stub = stub

    async def stream(
        self, prompt: Int32Array, *, output_tokens: int, temperature: float
    ) -> AsyncGenerator[StreamPiece]:
        request = pb.GenerateRequest(
            tokenized=pb.TokenizedInput(input_ids=prompt.tolist()),
            sampling_params=pb.SamplingParams(
                temperature=temperature, max_tokens=output_tokens, ignore_eos=True
            ),
            stream=True,
        )
        call = self._stub.Generate(request)
        try:
            async for response in call:
                chunk = response.chunk
                if chunk.token_ids:
                    yield StreamPiece(
                        tokens=len(chunk.token_ids), cached_tokens=chunk.cached_tokens
                    )
        except grpc.aio.AioRpcError as error:
            raise TargetError(f"{error.code().name}: {error.details()}") from error
        finally:
            call.cancel()  # does nothing after the end


@final
class LocalTarget:
    """The target is an engine in this process, behind a front end as in a server."""

    def __init__(self, front_end: FrontEnd) -> None:
        info = front_end.models.find().info
        self._front_end = front_end
        self.info = TargetInfo(
            name=info.model_name,
            context=info.max_model_len,
            vocab_size=info.vocab_size,
            eos_ids=info.eos_token_ids,
        )

    async def stream(
        self, prompt: Int32Array, *, output_tokens: int, temperature: float
    ) -> AsyncGenerator[StreamPiece]:
        ask = Ask(
            caller=Caller.of_library(),
            prompt=prompt.tolist(),
            params=SamplingParams(
                temperature=temperature, max_tokens=output_tokens, ignore_eos=True
            ),
            is_text_wanted=False,
        )
        deltas = generate(self._front_end, ask)
        try:
            async with contextlib.aclosing(deltas):
                async for delta in deltas:
                    if delta.token_ids:
                        yield StreamPiece(
                            tokens=len(delta.token_ids),
                            cached_tokens=delta.cached_tokens,
                        )
        except (
            InvalidRequestError,
            OverloadedError,
            EngineDeadError,
            RequestFailedError,
        ) as error:
            raise TargetError(str(error)) from error


@contextlib.asynccontextmanager
async def connect(address: str) -> AsyncIterator[BenchTarget]:
    """Yields the server at `address`, "host:port".

    Raises:
      TargetError: nobody answers there.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.VllmEngineStub(channel)
        try:
            info = await stub.GetModelInfo(
                pb.GetModelInfoRequest(), timeout=CONNECT_S, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            raise TargetError(
                f"no server answers at {address} ({error.code().name}): start "
                "mell-serve, or leave --address out to measure in this process"
            ) from error
        yield GrpcTarget(
            stub,
            info=TargetInfo(
                name=info.served_model_name,
                context=info.max_context_length,
                vocab_size=info.vocab_size,
                eos_ids=tuple(info.eos_token_ids),
            ),
        )


@contextlib.asynccontextmanager
async def run_here(built: BuiltEngine) -> AsyncIterator[BenchTarget]:
    """Starts an engine in this process, and stops it in the end."""
    engine = built.thread
    front_end = FrontEnd(
        engine.send,
        models=[FrontModel(info=info) for info in engine.infos],
        max_open=MAX_OPEN,
    )
    engine.start(front_end.sink(asyncio.get_running_loop()))
    try:
        yield LocalTarget(front_end)
    finally:
        await asyncio.to_thread(engine.stop)
        await asyncio.to_thread(front_end.close)

"""The edge: raw bytes to messages, exceptions to statuses, for every call.

Messages are parsed here and not by gRPC, which would answer malformed bytes with
UNKNOWN and the text of a Python exception.
"""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from mell_jax.serving.problem import MalformedMessageError, UnsupportedError
from mell_jax.serving.security import Gate
from mell_jax.serving.servicer import Asker, Servicer
from mell_jax.serving.stall import Stalls
from mell_jax.serving.status import status_of

SERVICE_NAME = "vllm.grpc.engine.VllmEngine"

_UNSUPPORTED = {
    "Embed": "this server generates text; it has no embeddings",
    "FlushCache": "the prefix cache cannot be flushed from outside",
    "StartProfile": "profiling cannot be started from outside",
    "StopProfile": "profiling cannot be stopped from outside",
    "SubscribeKvEvents": "no events about cached pages are published",
}

Unary = Callable[[Any, Asker], Awaitable[Message]]
Stream = Callable[[Any, Asker], AsyncGenerator[Message]]


def make_handler(
    servicer: Servicer, *, gate: Gate, stalls: Stalls
) -> grpc.GenericRpcHandler:
    """Handlers of the whole service; what is not built answers UNIMPLEMENTED.

    Args:
      servicer: does the work.
      gate: tells who calls.
      stalls: ends streams that nobody reads.
    """
    unary: dict[str, Unary] = {
        "Abort": servicer.abort,
        "HealthCheck": servicer.health_check,
        "GetModelInfo": servicer.get_model_info,
        "GetServerInfo": servicer.get_server_info,
        "GetLoads": servicer.get_loads,
    }
    streams: dict[str, Stream] = {
        "Generate": servicer.generate,
        "GetTokenizer": servicer.get_tokenizer,
    }
    handlers = {}
    for method in pb.DESCRIPTOR.services_by_name["VllmEngine"].methods:
        request_type = message_factory.GetMessageClass(method.input_type)
        if method.name in _UNSUPPORTED:
            handlers[method.name] = _refusing(_UNSUPPORTED[method.name])
        elif method.server_streaming:
            handlers[method.name] = _streaming(
                streams[method.name], request_type, gate=gate, stalls=stalls
            )
        else:
            handlers[method.name] = _answering(
                unary[method.name], request_type, gate=gate
            )
    return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)


def _streaming(
    call: Stream, request_type: type[Message], *, gate: Gate, stalls: Stalls
) -> grpc.RpcMethodHandler:
    async def handle(data: bytes, context: grpc.aio.ServicerContext) -> None:
        try:
            asker = _asker(context, gate)
            request = _parse(data, request_type)
            with stalls.watch() as guard:
                async with contextlib.aclosing(call(request, asker)) as stream:
                    async for response in stream:
                        guard.begin()
                        await context.write(response)
                        guard.end()
        except Exception as error:
            await _abort(context, error)

    return grpc.unary_stream_rpc_method_handler(handle, response_serializer=_serialize)


def _answering(
    call: Unary, request_type: type[Message], *, gate: Gate
) -> grpc.RpcMethodHandler:
    async def handle(data: bytes, context: grpc.aio.ServicerContext) -> Message | None:
        try:
            asker = _asker(context, gate)
            return await call(_parse(data, request_type), asker)
        except Exception as error:
            await _abort(context, error)
            raise

    return grpc.unary_unary_rpc_method_handler(handle, response_serializer=_serialize)


def _refusing(reason: str) -> grpc.RpcMethodHandler:
    async def handle(data: bytes, context: grpc.aio.ServicerContext) -> None:
        await _abort(context, UnsupportedError(reason))

    return grpc.unary_stream_rpc_method_handler(handle, response_serializer=_serialize)


def _parse(data: bytes, request_type: type[Message]) -> Message:
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise MalformedMessageError(
            f"the request is no {request_type.DESCRIPTOR.full_name}"
        ) from error


def _asker(context: grpc.aio.ServicerContext, gate: Gate) -> Asker:
    metadata = dict(context.invocation_metadata() or ())
    return Asker(
        caller=gate.identify(metadata), model=str(metadata.get("x-mell-model", ""))
    )


async def _abort(context: grpc.aio.ServicerContext, error: Exception) -> None:
    await context.abort_with_status(rpc_status.to_status(status_of(error)))


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()

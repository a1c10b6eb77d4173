"""The edge turns bytes into messages and exceptions into statuses, for every gRPC call.

Messages are parsed here and not by gRPC, which would answer malformed bytes with
UNKNOWN and the text of a Python exception.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, final

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from mell_jax.serving.asker import Asker
from mell_jax.serving.observe.tracing import origin_of
from mell_jax.serving.problem import MalformedMessageError, UnsupportedError
from mell_jax.serving.security.gate import Gate
from mell_jax.serving.stall import Stalls
from mell_jax.serving.status import status_of

Unary = Callable[[Any, Asker], Awaitable[Message]]
Stream = Callable[[Any, Asker], AsyncGenerator[Message]]
Duplex = Callable[[AsyncIterator[Any], Asker], AsyncGenerator[Message]]

_NONE: Mapping[str, Any] = MappingProxyType({})


@final
class Edge:
    """Makes handlers of gRPC out of calls that know nothing of it."""

    def __init__(self, *, gate: Gate, stalls: Stalls) -> None:
        """Serves any number of services.

        Args:
          gate: tells who calls.
          stalls: ends streams that nobody reads.
        """
        self._gate = gate
        self._stalls = stalls

    def handler(
        self,
        service: ServiceDescriptor,
        *,
        unary: Mapping[str, Unary] = _NONE,
        streams: Mapping[str, Stream] = _NONE,
        duplex: Mapping[str, Duplex] = _NONE,
        refused: Mapping[str, str] = _NONE,
    ) -> grpc.GenericRpcHandler:
        """Makes the handlers of a whole service.

        Args:
          service: whose methods each stand in one of the following.
          unary: one message to one.
          streams: one message to many.
          duplex: many messages to many.
          refused: why a method answers UNIMPLEMENTED.
        """
        handlers = {}
        for method in service.methods:
            name = method.name
            request_type = message_factory.GetMessageClass(method.input_type)
            if name in refused:
                handlers[name] = _refusing(refused[name])
            elif name in duplex:
                handlers[name] = self._conversing(duplex[name], request_type)
            elif name in streams:
                handlers[name] = self._streaming(streams[name], request_type)
            else:
                handlers[name] = self._answering(unary[name], request_type)
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _streaming(
        self, call: Stream, request_type: type[Message]
    ) -> grpc.RpcMethodHandler:
        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> None:
            try:
                asker = self._asker(context)
                await self._send_all(call(parse(data, request_type), asker), context)
            except Exception as error:
                await _abort(context, error)

        return grpc.unary_stream_rpc_method_handler(
            handle, response_serializer=_serialize
        )

    def _conversing(
        self, call: Duplex, request_type: type[Message]
    ) -> grpc.RpcMethodHandler:
        async def handle(
            data: AsyncIterator[bytes], context: grpc.aio.ServicerContext
        ) -> None:
            async def requests() -> AsyncIterator[Message]:
                async for each in data:
                    yield parse(each, request_type)

            try:
                await self._send_all(call(requests(), self._asker(context)), context)
            except Exception as error:
                await _abort(context, error)

        return grpc.stream_stream_rpc_method_handler(
            handle, response_serializer=_serialize
        )

    async def _send_all(
        self, responses: AsyncGenerator[Message], context: grpc.aio.ServicerContext
    ) -> None:
        with self._stalls.watch() as guard:
            async with contextlib.aclosing(responses) as stream:
                async for response in stream:
                    guard.begin()
                    await context.write(response)
                    guard.end()

    def _answering(
        self, call: Unary, request_type: type[Message]
    ) -> grpc.RpcMethodHandler:
        async def handle(
            data: bytes, context: grpc.aio.ServicerContext
        ) -> Message | None:
            try:
                asker = self._asker(context)
                return await call(parse(data, request_type), asker)
            except Exception as error:
                await _abort(context, error)
                raise

        return grpc.unary_unary_rpc_method_handler(
            handle, response_serializer=_serialize
        )

    def _asker(self, context: grpc.aio.ServicerContext) -> Asker:
        metadata = dict(context.invocation_metadata() or ())
        return Asker(
            caller=self._gate.identify(metadata),
            model=str(metadata.get("x-mell-model", "")),
            origin=origin_of(metadata),
            echo_id=lambda request_id: context.set_trailing_metadata(
                (("x-request-id", request_id),)
            ),
        )


def parse(data: bytes, request_type: type[Message]) -> Message:
    """Returns the message in some bytes.

    Raises:
      MalformedMessageError: the bytes are none.
    """
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise MalformedMessageError(
            f"the request is no {request_type.DESCRIPTOR.full_name}"
        ) from error


def _refusing(reason: str) -> grpc.RpcMethodHandler:
    async def handle(data: bytes, context: grpc.aio.ServicerContext) -> None:
        await _abort(context, UnsupportedError(reason))

    return grpc.unary_stream_rpc_method_handler(handle, response_serializer=_serialize)


async def _abort(context: grpc.aio.ServicerContext, error: Exception) -> None:
    status = rpc_status.to_status(status_of(error))
    own = context.trailing_metadata() or ()
    await context.abort(status.code, status.details, (*own, *status.trailing_metadata))


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()

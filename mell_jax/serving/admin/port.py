"""The server of `mell.v1.Admin` has few threads; each waits for the engine's answer."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import final

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from mell_jax.engine.admin import Answer
from mell_jax.frontend import Caller
from mell_jax.serving.address import BindError, listen
from mell_jax.serving.admin.asked import asked_of
from mell_jax.serving.admin.controls import (
    Asked,
    Controls,
    not_answered,
)
from mell_jax.serving.admin.convert import response_of
from mell_jax.serving.edge import parse
from mell_jax.serving.problem import NotAnsweredError
from mell_jax.serving.proto import mell_admin_pb2 as pb
from mell_jax.serving.security.gate import Gate
from mell_jax.serving.status import status_of

SERVICE_NAME = "mell.v1.Admin"
HOST = "127.0.0.1"  # never another one: who may ask here may do everything
_MAX_MESSAGE_BYTES = 64 * 1024
_THREADS = 32  # each is held by a call, and a pause may wait for long


def check_port(port: int) -> None:
    """Finds out early whether an `AdminPort` could listen.

    Raises:
      ValueError: there is no such port.
      BindError: it is taken.
    """
    if not (0 <= port <= 65535):
        raise ValueError(f"admin_port must be from 0 to 65535, got {port}")
    listen(HOST, port=port, flag="--admin_port", is_host_fixed=True).close()


@final
class AdminPort:
    """Listens on this machine's own interface once it is started."""

    def __init__(
        self, controls: Controls, *, gate: Gate, is_reflection_on: bool
    ) -> None:
        """Nothing listens yet.

        Args:
          controls: take what is asked to the engine.
          gate: where clients need tokens, operators need one with the right "admin".
          is_reflection_on: whether tools may ask what is served.
        """
        self._controls = controls
        self._gate = gate
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="mell-admin"),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ],
        )
        self._server.add_generic_rpc_handlers((self._handler(),))
        self._health = health.HealthServicer()
        self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if is_reflection_on:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    def start(self, port: int) -> str:
        """Listens and returns the address; port 0 is any free one.

        Raises:
          ValueError: there is no such port.
          BindError: it is taken.
        """
        check_port(port)
        try:
            port = self._server.add_insecure_port(f"{HOST}:{port}")
        except RuntimeError as error:  # taken since
            raise BindError(str(error)) from error
        self._server.start()
        return f"{HOST}:{port}"

    def stop(self) -> None:
        self._health.enter_graceful_shutdown()
        self._server.stop(None).wait()

    def _handler(self) -> grpc.GenericRpcHandler:
        service = pb.DESCRIPTOR.services_by_name["Admin"]
        handlers = {
            method.name: self._method(
                message_factory.GetMessageClass(method.input_type)
            )
            for method in service.methods
        }
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _method(self, request_type: type[Message]) -> grpc.RpcMethodHandler:
        def handle(data: bytes, context: grpc.ServicerContext) -> bytes | None:
            try:
                metadata = dict(context.invocation_metadata() or ())
                caller = self._gate.identify(metadata, right="admin")
                request = parse(data, request_type)
                asked = asked_of(request)
                answer = self._wait_for(asked, context=context, caller=caller)
                return response_of(answer, request=request).SerializeToString()
            except Exception as error:  # the edge
                context.abort_with_status(rpc_status.to_status(status_of(error)))
                raise

        return grpc.unary_unary_rpc_method_handler(handle)

    def _wait_for(
        self, asked: Asked, *, context: grpc.ServicerContext, caller: Caller
    ) -> Answer:
        """Waits for the answer until the caller's deadline or ours."""
        waits_s = (context.time_remaining(), self._controls.patience_s(asked))
        wait_s = min((each for each in waits_s if each is not None), default=None)
        answer = self._controls.begin(asked, caller=caller)
        context.add_callback(answer.cancel)  # when the caller has gone
        try:
            return answer.result(timeout=wait_s)
        except CancelledError as error:
            raise NotAnsweredError("the caller has gone; nothing was done") from error
        except TimeoutError as error:
            assert wait_s is not None, "without a bound nothing times out"
            raise not_answered(answer, waited_s=wait_s) from error


@contextlib.contextmanager
def serving_admin(
    controls: Controls, *, port: int | None, tokens_file: str, is_reflection_on: bool
) -> Iterator[str | None]:
    """Serves administration meanwhile, and yields where; None without a port.

    Args:
      controls: see `AdminPort`.
      port: 0 for any free one.
      tokens_file: empty where no token is needed.
      is_reflection_on: whether tools may ask what is served.

    Raises:
      ValueError: there is no such port.
      BindError: it is taken.
    """
    if port is None:
        yield None
        return
    admin = AdminPort(
        controls, gate=Gate(tokens_file), is_reflection_on=is_reflection_on
    )
    address = admin.start(port)
    try:
        yield address
    finally:
        admin.stop()

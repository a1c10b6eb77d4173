"""`grpc.health.v1` has a port and threads of its own: it answers when all else is busy.

""           the process lives: SERVING while anything answers
a service    readiness: requests are taken, and the engine makes progress
"""

from concurrent.futures import ThreadPoolExecutor
from typing import final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mell_jax.serving.address import BindError, join_address, listen

SERVICES = ("vllm.grpc.engine.VllmEngine", "inference.GRPCInferenceService")
"""Those that answer prompts: all are ready, or none."""


@final
class HealthPort:
    """Answers health checks; it is not ready at first."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="mell-health")
        self._health = health.HealthServicer(
            experimental_non_blocking=True, experimental_thread_pool=self._pool
        )
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        self._is_ready: bool | None = None
        self.set_ready(False)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def start(self, host: str, *, port: int) -> str:
        """Listens and returns the address.

        Raises:
          BindError: the address is taken or not this machine's.
        """
        listen(host, port=port, flag="--health_port").close()
        try:
            port = self._server.add_insecure_port(join_address(host, port=port))
        except RuntimeError as error:  # taken since
            raise BindError(str(error)) from error
        self._server.start()
        return join_address(host, port=port)

    def set_ready(self, is_ready: bool) -> None:
        """Tells whether requests would be served; those who watch hear it at once."""
        if is_ready is self._is_ready:
            return  # or it would be told again
        self._is_ready = is_ready
        status = health_pb2.HealthCheckResponse
        for name in SERVICES:
            self._health.set(name, status.SERVING if is_ready else status.NOT_SERVING)

    def stop(self) -> None:
        self._health.enter_graceful_shutdown()
        self._server.stop(None).wait()
        self._pool.shutdown()

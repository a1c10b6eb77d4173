"""The gRPC server: socket, health, reflection, and an orderly end.

    SIGTERM -> NOT_SERVING, new work refused -> what is open finishes, at most drain_s
            -> the rest fails with UNAVAILABLE -> the socket closes; a second signal
               ends the waiting

Runs in one event loop; the engine has a thread of its own.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from starlette.applications import Starlette

from mell_jax.engine.frames import EngineStopped, StepFrame
from mell_jax.frontend import EngineLink, FrontEnd, FrontModel, Sink
from mell_jax.serving.http import HttpServer, make_app
from mell_jax.serving.metrics import Scrape
from mell_jax.serving.rpcs import SERVICE_NAME, make_handler
from mell_jax.serving.servicer import ServedModel, Servicer

_logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_LAST_WORDS_S = 2.0  # for statuses to reach clients before the socket closes


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where and how to serve.

    Attributes:
      host: interface to listen on; 0.0.0.0 for all.
      port: 0 for any free one.
      drain_s: how long open requests may go on after a stop signal.
      max_open: open requests above which new ones are refused.
      is_reflection_on: whether tools may ask what the server speaks.
      http_port: for health and metrics; 0 for any free one, None for no HTTP.
      shows_vllm_names: whether metrics also have the names that vLLM gives them.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    drain_s: float = 30.0
    max_open: int = 4096
    is_reflection_on: bool = True
    http_port: int | None = None
    shows_vllm_names: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.port <= 65535):
            raise ValueError(f"port must be from 0 to 65535, got {self.port}")
        if not (self.http_port is None or 0 <= self.http_port <= 65535):
            raise ValueError(f"http_port must be from 0 to 65535, got {self.http_port}")
        if self.http_port == self.port != 0:
            raise ValueError(f"http_port must not be port, both are {self.port}")
        if not (0.0 <= self.drain_s <= 86400.0):
            raise ValueError(f"drain_s must be from 0 to 86400, got {self.drain_s}")
        if not (self.max_open >= 1):
            raise ValueError(f"max_open must be at least 1, got {self.max_open}")


class BindError(OSError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where a server listens, as host:port."""

    grpc: str
    http: str | None = None


def check_address(config: ServerConfig) -> None:
    """Finds out early whether `Server.start` could listen.

    Raises:
      BindError: an address is taken or not this machine's.
    """
    _listen(config.host, config.port, flag="--port").close()
    if config.http_port is not None:
        _listen(config.host, config.http_port, flag="--http_port").close()


def _listen(host: str, port: int, *, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise BindError(
            f"cannot listen on {_join(host, port)}: {error.strerror}; "
            f"choose another --host or {flag}"
        ) from error


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@final
class Server:
    """One listening server in front of a running engine."""

    def __init__(
        self,
        engine: EngineLink,
        *,
        models: Sequence[ServedModel],
        config: ServerConfig,
    ) -> None:
        self._config = config
        tokenizers = {model.name: model.tokenizer for model in models}
        self.front_end = FrontEnd(
            engine.send,
            models=[
                FrontModel(info=info, tokenizer=tokenizers[info.model_name])
                for info in engine.infos
            ],
            max_open=config.max_open,
        )
        self._servicer = Servicer(self.front_end, load=engine.load, models=models)
        self._load = engine.load
        self._http: HttpServer | None = None
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=_options())
        self._server.add_generic_rpc_handlers((make_handler(self._servicer),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if config.is_reflection_on:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    def sink(self, loop: asyncio.AbstractEventLoop) -> Sink:
        """What the engine calls; keeps the cause of its failure from clients."""
        deliver = self.front_end.sink(loop)

        def pass_on(frame: StepFrame | EngineStopped) -> None:
            if isinstance(frame, EngineStopped) and frame.message:
                _logger.error("%s", frame.message)
                frame = EngineStopped(message="the engine failed")
            deliver(frame)

        return pass_on

    async def start(self) -> Addresses:
        """Listens and reports readiness; returns the addresses.

        Raises:
          BindError: an address is taken or not this machine's.
        """
        config = self._config
        check_address(config)
        try:
            port = self._server.add_insecure_port(_join(config.host, config.port))
        except RuntimeError as error:  # taken since
            raise BindError(str(error)) from error
        http = await self._start_http()
        await self._server.start()
        await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
        return Addresses(grpc=_join(config.host, port), http=http)

    async def _start_http(self) -> str | None:
        config = self._config
        if config.http_port is None:
            return None
        listener = _listen(config.host, config.http_port, flag="--http_port")
        port = int(listener.getsockname()[1])
        self._http = HttpServer(self._make_app(), listener=listener)
        await self._http.start()
        return _join(config.host, port)

    def _make_app(self) -> Starlette:
        return make_app(trouble=lambda: self._servicer.trouble, scrape=self._scrape)

    def _scrape(self) -> Scrape:
        meter = self.front_end.meter
        return Scrape(
            load=self._load(),
            measured=meter.measured(),
            refused=meter.refused,
            is_serving=not self._servicer.trouble,
            shows_vllm_names=self._config.shows_vllm_names,
        )

    async def drain(self, *, hurry: asyncio.Event) -> None:
        """Finishes open requests within `drain_s`, or until `hurry`; then stops."""
        self._servicer.drain()
        if self.front_end.num_open:
            _logger.warning(
                "finishing %d open requests, at most %g s; a second signal stops now",
                self.front_end.num_open,
                self._config.drain_s,
            )
        await self._health.enter_graceful_shutdown()
        idle = asyncio.ensure_future(self.front_end.wait_idle())
        hurried = asyncio.ensure_future(hurry.wait())
        await asyncio.wait(
            (idle, hurried),
            timeout=self._config.drain_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        idle.cancel()
        hurried.cancel()
        await self.stop("the server is shutting down")

    async def stop(self, cause: str) -> None:
        """Fails open requests with UNAVAILABLE and closes the sockets."""
        self.front_end.stop(cause)
        await self._health.enter_graceful_shutdown()
        await self._server.stop(_LAST_WORDS_S)
        if self._http is not None:
            await self._http.stop()


async def run_server(
    engine: EngineLink,
    *,
    models: Sequence[ServedModel],
    config: ServerConfig,
    on_ready: Callable[[Addresses], None],
) -> str:
    """Serves until a signal or the engine's end.

    Args:
      engine: not yet started; it is stopped on return.
      models: what clients are told about each model of the engine.
      config: where and how to serve.
      on_ready: called with the addresses once requests are taken.

    Returns:
      Why service ended, when nobody asked for it; the log has the cause.

    Raises:
      BindError: the address cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    server = Server(engine, models=models, config=config)
    engine.start(server.sink(loop))
    try:
        told, hurry = _stop_signals(loop)
        on_ready(await server.start())
        died = asyncio.ensure_future(server.front_end.wait_stopped())
        asked = asyncio.ensure_future(told.wait())
        await asyncio.wait((died, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if died.done():
            await server.stop(died.result())
            return died.result()
        died.cancel()
        await server.drain(hurry=hurry)
        return ""
    finally:
        await asyncio.to_thread(engine.stop)


def _stop_signals(
    loop: asyncio.AbstractEventLoop,
) -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first and by the second SIGTERM or SIGINT."""
    told, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if told.is_set() else told).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return told, hurry


def _options() -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),  # a second server must not share the port unseen
        ("grpc.keepalive_time_ms", 30_000),  # finds peers that vanished
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]

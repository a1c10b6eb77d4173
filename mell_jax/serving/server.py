"""The server owns the sockets, health, reflection, and an orderly end.

    SIGTERM -> NOT_SERVING -> grace_s -> new work refused -> what is open finishes
            -> the rest fails with UNAVAILABLE -> the socket closes; a second signal
               ends the waiting

Runs in one event loop; the engine has a thread of its own.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from starlette.applications import Starlette

from mell_jax.engine.frames import EngineInfo, EngineStopped, StepFrame
from mell_jax.events import Event, tell
from mell_jax.frontend import EngineLink, FrontEnd, FrontModel, Peers, Sink
from mell_jax.serving.aborts import Aborts
from mell_jax.serving.address import (
    OWNERS_MODE,
    Addresses,
    BindError,
    clear_file,
    join_address,
    listen,
    listen_on_file,
    remove_file,
)
from mell_jax.serving.anthropic.door import AnthropicDoor
from mell_jax.serving.chat.desk import Desk
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.edge import Edge
from mell_jax.serving.http import HttpRoute, HttpServer, make_app
from mell_jax.serving.kserve.servicer import KServe
from mell_jax.serving.metrics import Scrape
from mell_jax.serving.observe.health import SERVICES, HealthPort
from mell_jax.serving.observe.progress import (
    LOOK_S,
    LocalEngine,
    ProgressWatch,
    stop_engine,
)
from mell_jax.serving.observe.tracing import open_spans
from mell_jax.serving.openai import OpenAiDoor
from mell_jax.serving.openai.chats import load_speeches
from mell_jax.serving.openai.responses.door import ResponsesDoor
from mell_jax.serving.page.door import PageDoor
from mell_jax.serving.page.feed import Feed
from mell_jax.serving.security.gate import Gate
from mell_jax.serving.security.tls import TlsFiles
from mell_jax.serving.served_model import ServedModel
from mell_jax.serving.stall import Stalls
from mell_jax.serving.stop_signals import StopSignals
from mell_jax.serving.vllm.rpcs import make_handler
from mell_jax.serving.vllm.servicer import Servicer

_logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_MAX_PENDING = 2**14  # calls that wait for a turn of the loop
_LAST_WORDS_S = 2.0  # for statuses to reach clients before the socket closes


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEndIdentity:
    """Tells which of a server's front ends this is, when there are several.

    Attributes:
      first_handle: of its sequences; see `FrontEnd`.
      peers: see `FrontEnd`.
      is_port_shared: others of ours listen on the same port, or will.
      server_pid: the process whose memory and time `/metrics` shows; None for this one.
    """

    first_handle: int = 1
    peers: Peers | None = None
    is_port_shared: bool = False
    server_pid: int | None = None


@final
class Server:
    """Listens in front of a running engine."""

    def __init__(
        self,
        engine: EngineLink,
        *,
        models: Sequence[ServedModel],
        config: ServerConfig,
        place: FrontEndIdentity | None = None,
        health_port: HealthPort | None = None,
    ) -> None:
        """Listens nowhere yet.

        Args:
          engine: where requests go.
          models: what clients are told about each model of the engine.
          config: where and how to serve.
          place: None for a server without other front ends.
          health_port: is told what health says here.
        """
        self._config = config
        self._health_port = health_port
        self._is_ending = False
        self._is_ready: bool | None = None
        self._place = place = place or FrontEndIdentity()
        tokenizers = {model.name: model.tokenizer for model in models}
        self._spans = open_spans(config.otlp_endpoint)
        self.front_end = FrontEnd(
            engine.send,
            models=[
                FrontModel(info=info, tokenizer=tokenizers[info.model_name])
                for info in engine.infos
            ],
            max_open=config.max_open,
            limits=config.limits,
            first_handle=place.first_handle,
            peers=place.peers,
            recorder=self._spans,
            load=engine.load,
        )
        self._stalls = Stalls(config.stall_timeout_s, clock=time.monotonic)
        self._sweeping: asyncio.Task[None] | None = None
        security = config.security
        self._tls = TlsFiles(security) if security.tls_cert else None
        self._gate = Gate(security.tokens_file)
        self._servicer = Servicer(self.front_end, load=engine.load, models=models)
        self._load = engine.load
        self._feed = Feed(engine.load)
        self._http: HttpServer | None = None
        self._templates = contextlib.ExitStack()  # their processes
        self._routes = self._make_routes(models, infos=engine.infos)
        self._health = health.aio.HealthServicer()
        self._server = self._make_grpc()

    def _make_grpc(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=_options(self._config, place=self._place))
        edge = Edge(gate=self._gate, stalls=self._stalls)
        kserve = KServe(self.front_end, door=self._servicer)
        server.add_generic_rpc_handlers(
            (make_handler(self._servicer, edge=edge), kserve.handler(edge))
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._config.is_reflection_on:
            names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        return server

    def _make_routes(
        self, models: Sequence[ServedModel], *, infos: Sequence[EngineInfo]
    ) -> list[HttpRoute]:
        """Returns the routes of all doors; those of OpenAI's end with a catch-all."""
        if not self._config.has_http:
            return []
        speeches = load_speeches(
            models,
            templates=self._config.chat_templates,
            tool_formats=self._config.tool_formats,
            ends={info.model_name: info.eos_token_ids for info in infos},
            stack=self._templates,
        )
        check_open, comment_s = self._servicer.check_open, self._config.sse_comment_s
        desk = Desk(
            self.front_end,
            speeches=speeches,
            check_open=check_open,
            stalls=self._stalls,
            comment_s=comment_s,
        )
        openai = OpenAiDoor(
            self.front_end,
            speeches=speeches,
            folders={
                model.name: model.tokenizer_dir
                for model in models
                if model.tokenizer_dir is not None
            },
            fingerprints={
                model.name: model.fingerprint for model in models if model.fingerprint
            },
            check_open=check_open,
            stalls=self._stalls,
            comment_s=comment_s,
        )
        page = PageDoor(self._feed, stalls=self._stalls, comment_s=comment_s)
        return [
            *page.routes(),
            *ResponsesDoor(desk).routes(),
            *AnthropicDoor(desk).routes(),
            *openai.routes(),
        ]

    def sink(self, loop: asyncio.AbstractEventLoop) -> Sink:
        """Returns the function that the engine calls; it hides a failure's cause."""
        deliver = self.front_end.sink(loop)

        def pass_on(frame: StepFrame | EngineStopped) -> None:
            if isinstance(frame, EngineStopped) and frame.message:
                _logger.error("%s", frame.message)
                frame = EngineStopped(message="the engine failed")
            deliver(frame)

        return pass_on

    async def start(self) -> Addresses:
        """Listens, reports readiness and returns the addresses.

        Raises:
          BindError: an address is taken or not this machine's.
        """
        grpc_address = self._listen_for_grpc()
        http = await self._start_http()
        self._sweeping = asyncio.ensure_future(self._stalls.run())
        await self._server.start()
        await self.set_ready(True)
        return Addresses(grpc=grpc_address, http=http)

    def _listen_for_grpc(self) -> str:
        config, path = self._config, self._config.unix_socket
        address = join_address(config.host, port=config.port)
        if path is not None:
            address = f"unix:{path}"
            clear_file(path, name="unix_socket")
        elif not self._place.is_port_shared:
            listen(config.host, port=config.port, flag="--port").close()
        try:
            port = self._add_port(address)
        except RuntimeError as error:  # taken since
            raise BindError(str(error)) from error
        if path is None:
            return join_address(config.host, port=port)
        os.chmod(path, OWNERS_MODE)
        return address

    def _add_port(self, address: str) -> int:
        if self._tls is None:
            return int(self._server.add_insecure_port(address))
        credentials = self._tls.grpc_credentials()
        return int(self._server.add_secure_port(address, credentials))

    async def set_ready(self, is_ready: bool) -> None:
        """Sets what health says; a server that drains stays NOT_SERVING."""
        is_alive = self.front_end.executors.are_alive(patience_s=self._config.stall_s)
        self._servicer.set_progress(engine=is_ready, front_end=is_alive)
        is_ready = is_ready and is_alive and not self._is_ending
        if is_ready is self._is_ready:
            return  # or those who watch would be told again
        self._is_ready = is_ready
        status = health_pb2.HealthCheckResponse
        if self._health_port is not None:
            self._health_port.set_ready(is_ready)
        for name in SERVICES:
            await self._health.set(
                name, status.SERVING if is_ready else status.NOT_SERVING
            )

    async def serve(self, *, told: asyncio.Event, hurry: asyncio.Event) -> str:
        """Waits for the end of service and makes it an orderly one.

        Args:
          told: to drain; see `drain`.
          hurry: ends the waiting.

        Returns:
          Why service ended, when nobody asked for it.
        """
        died = asyncio.ensure_future(self.front_end.wait_stopped())
        asked = asyncio.ensure_future(told.wait())
        await asyncio.wait((died, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if died.done():
            await self.stop(died.result())
            return died.result()
        died.cancel()
        await self.drain(hurry=hurry)
        return ""

    async def _start_http(self) -> str | None:
        config = self._config
        if config.http_unix_socket is not None:
            path = config.http_unix_socket
            listener = listen_on_file(path, name="http_unix_socket")
            address = f"unix:{path}"
        elif config.http_port is not None:
            listener = listen(
                config.host,
                port=config.http_port,
                flag="--http_port",
                is_shared=self._place.is_port_shared,
            )
            port = int(listener.getsockname()[1])
            address = join_address(config.host, port=port)
        else:
            return None
        self._http = HttpServer(
            self.http_app(),
            listener=listener,
            stall_timeout_s=config.stall_timeout_s,
            keep_alive_s=config.keep_alive_s,
            tls=self._tls,
        )
        await self._http.start()
        return address

    def http_app(self) -> Starlette:
        """Makes the HTTP application that `start` serves; every route is guarded."""
        return make_app(
            trouble=lambda: self._servicer.trouble,
            scrape=self._scrape,
            gate=self._gate,
            executors=self.front_end.executors,
            cors_origins=self._config.cors_origins,
            routes=self._routes,
        )

    async def _scrape(self) -> Scrape:
        counted = await self.front_end.counted()
        return Scrape(
            load=self._load(),
            measured=counted.models,
            refused=counted.refused,
            is_serving=not self._servicer.trouble,
            shows_vllm_names=self._config.shows_vllm_names,
            pid=self._place.server_pid,
        )

    async def drain(self, *, hurry: asyncio.Event) -> None:
        """Finishes open requests within `drain_s`, or until `hurry`; then stops.

        Before that, requests are taken for `grace_s` by a server that says it is not
        serving.
        """
        hurried = asyncio.ensure_future(hurry.wait())
        if self._config.grace_s:
            self._servicer.leave()
            await self._end_health()
            await asyncio.wait((hurried,), timeout=self._config.grace_s)
        self._servicer.drain()
        await self._end_health()
        num_open = self.front_end.num_open
        tell(
            Event.DRAINING,
            text=f"finishing {num_open} open requests, at most "
            f"{self._config.drain_s:g} s; a second signal stops now",
            level=None if num_open else logging.INFO,
            num_open=num_open,
        )
        idle = asyncio.ensure_future(self.front_end.wait_idle())
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
        self._feed.close()
        await self._end_health()
        await self._server.stop(_LAST_WORDS_S)
        if self._http is not None:
            await self._http.stop()
        for path in (self._config.unix_socket, self._config.http_unix_socket):
            if path is not None:
                remove_file(path)
        if self._sweeping is not None:
            self._sweeping.cancel()
        await asyncio.to_thread(self.front_end.close)
        await asyncio.to_thread(self._templates.close)
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)

    async def _end_health(self) -> None:
        self._is_ending = True
        await self.set_ready(False)
        await self._health.enter_graceful_shutdown()


async def run_server(
    engine: LocalEngine,
    *,
    models: Sequence[ServedModel],
    config: ServerConfig,
    on_ready: Callable[[Addresses], None],
    aborts: Aborts | None = None,
) -> str:
    """Serves from this process until a signal or the engine's end.

    A signal that comes before requests are taken is passed on to its earlier handler
    once everything is closed.

    Args:
      engine: not yet started; it is stopped on return.
      models: what clients are told about each model of the engine.
      config: where and how to serve.
      on_ready: called with the addresses once requests are taken.
      aborts: brings what operators order; None for nobody.

    Returns:
      Why service ended, when nobody asked for it; the log has the cause.

    Raises:
      BindError: an address cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    health_port = HealthPort() if config.health_port is not None else None
    server = Server(engine, models=models, config=config, health_port=health_port)
    signals = StopSignals(loop)
    engine.start(server.sink(loop))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, stop_engine, engine)
        if aborts is not None:
            abort = server.front_end.abort
            aborts.listen(lambda ids: loop.call_soon_threadsafe(abort, ids))
            stack.callback(aborts.leave)
        health_address = None
        if health_port is not None and config.health_port is not None:
            stack.push_async_callback(asyncio.to_thread, health_port.stop)
            health_address = health_port.start(config.host, port=config.health_port)
        addresses = await server.start()
        await asyncio.sleep(0)  # for signals to be heard
        if not signals.told.is_set():
            watch = ProgressWatch(engine, stall_s=config.stall_s)
            watching = asyncio.ensure_future(_watch(watch, server))
            stack.callback(watching.cancel)
            on_ready(replace(addresses, health=health_address))
            return await server.serve(told=signals.told, hurry=signals.hurry)
        await server.stop("the server is shutting down")
    signals.pass_on()
    return ""


async def _watch(watch: ProgressWatch, server: Server) -> None:
    """Makes health tell whether the engine makes progress, until it is cancelled."""
    while True:
        await server.set_ready(watch.look())
        await asyncio.sleep(LOOK_S)


def _options(config: ServerConfig, *, place: FrontEndIdentity) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # Identity alone: a small compressed message may become a large one.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # A second server must not share the port unseen.
        ("grpc.so_reuseport", int(place.is_port_shared)),
        # Above these gRPC itself cancels calls, without the status that we would give.
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING + 1),
        ("grpc.keepalive_time_ms", 30_000),  # finds peers that vanished
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
    if config.max_connection_age_s is not None:
        age_ms = round(1000 * config.max_connection_age_s)
        options.append(("grpc.max_connection_age_ms", age_ms))
    return options

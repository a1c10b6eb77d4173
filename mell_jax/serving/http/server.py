"""Listens for HTTP inside an event loop that belongs to somebody else.

uvicorn speaks HTTP here and does nothing else: no signals, no log of its own, no loop.
"""

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import Iterator
from typing import final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mell_jax.serving.http.head import BoundedHead
from mell_jax.serving.security.tls import TlsFiles

_MAX_HEAD_BYTES = 16 * 1024
_MAX_CONNECTIONS = 4096  # the next ones are told 503
_MAX_HEAD_S = 30.0
_LAST_WORDS_S = 2  # for answers to reach clients before connections close


@final
class HttpServer:
    """Serves `app` on a socket that listens already, until it is stopped."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        listener: socket.socket,
        stall_timeout_s: float = 60.0,
        keep_alive_s: float = 75.0,
        tls: TlsFiles | None = None,
        max_connections: int = _MAX_CONNECTIONS,
        max_head_s: float = _MAX_HEAD_S,
    ) -> None:
        """Serves nothing yet.

        Args:
          app: what is served.
          listener: a socket that listens.
          stall_timeout_s: after which connections end whose clients take nothing.
          keep_alive_s: that a connection may idle between two requests.
          tls: None for plain HTTP.
          max_connections: above which requests are told 503 and nothing else.
          max_head_s: that a connection may take to ask for something, and longer than
            `keep_alive_s` to ask again.
        """
        is_tcp = listener.family != socket.AF_UNIX
        if is_tcp and hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited; Linux
            listener.setsockopt(
                socket.IPPROTO_TCP,
                socket.TCP_USER_TIMEOUT,
                max(1, round(1000 * stall_timeout_s)),
            )
        self._listener = listener
        config = uvicorn.Config(
            BoundedHead(app, max_bytes=_MAX_HEAD_BYTES),
            loop="none",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # lower ones are about what clients do
            access_log=False,
            proxy_headers=False,
            server_header=False,
            workers=1,
            timeout_keep_alive=math.ceil(keep_alive_s),
            timeout_graceful_shutdown=_LAST_WORDS_S,
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            limit_concurrency=max_connections + 1,  # uvicorn counts the new one
        )
        config.load()
        if tls is not None:
            config.ssl = tls.ssl_context()
        self._server = _Server(config, max_head_s=max_head_s, keep_alive_s=keep_alive_s)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes requests on return."""
        self._task = asyncio.create_task(self._server.serve([self._listener]))
        await self._server.is_up.wait()
        if not self._server.started:
            await self._task  # raises what went wrong

    async def stop(self) -> None:
        """Lets open answers end, for a moment, and closes the socket."""
        if self._task is None:
            self._listener.close()
            return
        self._server.should_exit = True
        await self._task


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, *, max_head_s: float, keep_alive_s: float
    ) -> None:
        super().__init__(config)
        self._keep_alive_s = keep_alive_s
        self.is_up = asyncio.Event()
        self._max_head_s = max_head_s
        self._silent: dict[object, tuple[object, float]] = {}  # by connection

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=sockets)
        finally:
            self.is_up.set()

    async def on_tick(self, counter: int) -> bool:
        self._end_silent()
        return await super().on_tick(counter)

    def _end_silent(self) -> None:
        """Closes connections that have no request and do not get one."""
        now_s = time.monotonic()
        silent: dict[object, tuple[object, float]] = {}
        for connection in list(self.server_state.connections):
            assert isinstance(connection, H11Protocol), connection
            latest = connection.cycle
            if latest is not None and not latest.response_complete:
                continue
            seen, since_s = self._silent.get(connection, (None, now_s))
            if seen is not latest:  # it has asked meanwhile
                since_s = now_s
            silent[connection] = (latest, since_s)
            idle_s = 0.0 if latest is None else self._keep_alive_s
            if now_s - since_s >= idle_s + self._max_head_s:
                connection.transport.close()
        self._silent = silent

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to the gRPC server."""
        yield

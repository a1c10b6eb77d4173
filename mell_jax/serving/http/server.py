"""Listens for HTTP inside an event loop that is somebody else's.

uvicorn speaks HTTP here and does nothing else: no signals, no log of its own, no loop.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import final

import uvicorn
from starlette.types import ASGIApp

from mell_jax.serving.security import TlsFiles

_MAX_HEAD_BYTES = 16 * 1024
_MAX_CONNECTIONS = 4096  # the next ones are told 503
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
        tls: TlsFiles | None = None,
        max_connections: int = _MAX_CONNECTIONS,
    ) -> None:
        """Serves nothing yet.

        Args:
          app: what is served.
          listener: a socket that listens.
          stall_timeout_s: after which connections end whose clients take nothing.
          tls: None for plain HTTP.
          max_connections: above which requests are told 503 and nothing else.
        """
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it; Linux
            listener.setsockopt(
                socket.IPPROTO_TCP,
                socket.TCP_USER_TIMEOUT,
                max(1, round(1000 * stall_timeout_s)),
            )
        self._listener = listener
        config = uvicorn.Config(
            app,
            loop="none",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            workers=1,
            timeout_graceful_shutdown=_LAST_WORDS_S,
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            limit_concurrency=max_connections + 1,  # uvicorn counts the new one
        )
        config.load()
        if tls is not None:
            config.ssl = tls.ssl_context()
        self._server = _Server(config)
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
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=sockets)
        finally:
            self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The gRPC server minds the signals."""
        yield

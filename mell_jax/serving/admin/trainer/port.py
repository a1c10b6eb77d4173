"""Trainers' routes have a port, a thread and an event loop of their own.

They live in the engine's process, whatever its front ends do, and no public port has
them. Web pages are refused: a browser on the operator's machine would carry their
requests to a port that needs no token there.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mell_jax.serving.address import join_address, listen
from mell_jax.serving.admin.controls import Controls
from mell_jax.serving.admin.trainer.door import TrainerDoor
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.http import HttpRoute, HttpServer
from mell_jax.serving.http.route import guarded
from mell_jax.serving.loop import run_loop
from mell_jax.serving.security.gate import Gate
from mell_jax.serving.security.tls import TlsFiles

_CHOICE = "admin_http_host or admin_http_port"


def check_trainer_port(host: str, *, port: int) -> None:
    """Finds out early whether a `TrainerPort` could listen.

    Raises:
      BindError: the address is taken or not this machine's.
    """
    _listen(host, port=port).close()


def _listen(host: str, *, port: int) -> socket.socket:
    return listen(host, port=port, flag=_CHOICE, is_host_fixed=True)


@final
class NoPages:
    """Passes on requests of programs, and answers 403 to those of web pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks for the headers that browsers add and pages cannot leave out."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        site = headers.get(b"sec-fetch-site", b"none")
        if b"origin" in headers or site != b"none":
            text = "web pages may not administer this server\n"
            await PlainTextResponse(text, status_code=403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def make_trainer_app(routes: Sequence[HttpRoute], *, gate: Gate) -> Starlette:
    """Makes the application that a port serves; every route asks the gate."""
    return Starlette(
        routes=[guarded(route, gate=gate) for route in routes],
        middleware=[Middleware(NoPages)],
    )


@final
class TrainerPort:
    """Serves an application on a thread, from `start` to `stop`."""

    def __init__(self, app: Starlette, *, tls: TlsFiles | None = None) -> None:
        """Listens nowhere yet; `tls` None is for plain HTTP."""
        self._app = app
        self._tls = tls
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self, host: str, *, port: int) -> str:
        """Listens and returns the address; port 0 is any free one.

        Raises:
          BindError: the address is taken or not this machine's.
        """
        listener = _listen(host, port=port)
        self._thread = threading.Thread(
            target=lambda: run_loop(self._serve(listener)),
            name="mell-admin-http",
            daemon=True,
        )
        self._thread.start()
        self._is_up.wait()
        return join_address(host, port=int(listener.getsockname()[1]))

    def stop(self) -> None:
        """Lets open answers end, for a moment, and closes the port."""
        assert self._loop is not None and self._thread is not None, "it was started"
        self._loop.call_soon_threadsafe(self._told.set)
        self._thread.join()

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        server = HttpServer(self._app, listener=listener, tls=self._tls)
        try:
            await server.start()
        finally:
            self._is_up.set()
        await self._told.wait()
        await server.stop()


@contextlib.contextmanager
def serving_trainers(
    controls: Controls, *, config: ServerConfig
) -> Iterator[str | None]:
    """Serves trainers' routes meanwhile, and yields where; None without a port.

    Raises:
      BindError: the address is taken or not this machine's.
    """
    if config.admin_http_port is None:
        yield None
        return
    security = config.security
    is_tls = bool(security.tls_cert) and not config.is_admin_local
    port = TrainerPort(
        make_trainer_app(
            TrainerDoor(controls).routes(), gate=Gate(security.tokens_file)
        ),
        tls=TlsFiles(security) if is_tls else None,
    )
    address = port.start(config.admin_http_host, port=config.admin_http_port)
    try:
        yield address
    finally:
        port.stop()

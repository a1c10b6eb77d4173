"""A small ASGI application has the routes of this server over HTTP.

GET /health    200 while requests are taken, 503 before, while draining and after
GET /ping      the same, by the name that some platforms look for
GET /version   the server's own
GET /metrics   for Prometheus, in the text format that it asks for
"""

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mell_jax.frontend.executors import Executors, Job
from mell_jax.serving.asker import Asker
from mell_jax.serving.http.route import HttpRoute, guarded
from mell_jax.serving.metrics import CONTENT_TYPE, Scrape
from mell_jax.serving.security.gate import Gate
from mell_jax.serving.version import own_version


def make_app(
    *,
    trouble: Callable[[], str],
    scrape: Callable[[], Awaitable[Scrape]],
    gate: Gate,
    executors: Executors,
    routes: Sequence[HttpRoute] = (),
    cors_origins: Sequence[str] = (),
) -> Starlette:
    """Makes the application; every route of it asks the gate, unless it is public.

    Args:
      trouble: why no requests are taken; empty while they are.
      scrape: what `/metrics` shows; called in the event loop.
      gate: tells who calls.
      executors: where metrics are written.
      routes: more of them.
      cors_origins: web pages of these origins may call; "*" for all.
    """

    async def health(request: Request, asker: Asker) -> Response:
        cause = trouble()
        return PlainTextResponse(
            f"{cause or 'ok'}\n", status_code=503 if cause else 200
        )

    async def metrics(request: Request, asker: Asker) -> Response:
        shown = await scrape()
        text = await executors.run(Job.METRICS, shown.text)  # milliseconds
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def version(request: Request, asker: Asker) -> Response:
        return JSONResponse({"version": own_version()})

    own = (
        HttpRoute(path="/health", endpoint=health, is_public=True),
        HttpRoute(
            path="/ping", endpoint=health, methods=("GET", "POST"), is_public=True
        ),
        HttpRoute(path="/version", endpoint=version),
        HttpRoute(path="/metrics", endpoint=metrics, right="metrics"),
    )
    middleware = []
    if cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=[
                    "x-request-id",
                    "retry-after",
                    "x-mell-unknown-fields",
                ],
            )
        )
    return Starlette(
        routes=[guarded(each, gate=gate) for each in (*own, *routes)],
        middleware=middleware,
    )

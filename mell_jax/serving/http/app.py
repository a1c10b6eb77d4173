"""What is answered over HTTP: a small ASGI application.

GET /health    200 while requests are taken, 503 before, while draining and after
GET /metrics   for Prometheus, in the text format that it asks for
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from mell_jax.serving.http.errors import error_response
from mell_jax.serving.metrics import CONTENT_TYPE, Scrape
from mell_jax.serving.security import Gate


def make_app(
    *,
    trouble: Callable[[], str],
    scrape: Callable[[], Awaitable[Scrape]],
    gate: Gate | None = None,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The application.

    Args:
      trouble: why no requests are taken; empty while they are.
      scrape: what `/metrics` shows; called in the event loop.
      gate: who may see `/metrics`; None for everybody.
      routes: more of them.
    """

    async def health(request: Request) -> Response:
        cause = trouble()
        return PlainTextResponse(
            f"{cause or 'ok'}\n", status_code=503 if cause else 200
        )

    async def metrics(request: Request) -> Response:
        try:
            if gate is not None:
                gate.identify(request.headers, right="metrics")
            shown = await scrape()
        except Exception as error:
            return error_response(error)
        text = await asyncio.to_thread(shown.text)  # milliseconds: streams go on
        return Response(text, headers={"content-type": CONTENT_TYPE})

    return Starlette(
        routes=[Route("/health", health), Route("/metrics", metrics), *routes]
    )

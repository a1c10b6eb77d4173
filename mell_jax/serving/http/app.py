"""A small ASGI application has the routes of this server over HTTP.

GET /health    200 while requests are taken, 503 before, while draining and after
GET /metrics   for Prometheus, in the text format that it asks for
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mell_jax.serving.asker import Asker
from mell_jax.serving.http.route import HttpRoute, guarded
from mell_jax.serving.metrics import CONTENT_TYPE, Scrape
from mell_jax.serving.security.gate import Gate


def make_app(
    *,
    trouble: Callable[[], str],
    scrape: Callable[[], Awaitable[Scrape]],
    gate: Gate,
    routes: Sequence[HttpRoute] = (),
) -> Starlette:
    """Makes the application; every route of it asks the gate, unless it is public.

    Args:
      trouble: why no requests are taken; empty while they are.
      scrape: what `/metrics` shows; called in the event loop.
      gate: tells who calls.
      routes: more of them.
    """

    async def health(request: Request, asker: Asker) -> Response:
        cause = trouble()
        return PlainTextResponse(
            f"{cause or 'ok'}\n", status_code=503 if cause else 200
        )

    async def metrics(request: Request, asker: Asker) -> Response:
        shown = await scrape()
        text = await asyncio.to_thread(shown.text)  # milliseconds: streams go on
        return Response(text, headers={"content-type": CONTENT_TYPE})

    own = (
        HttpRoute(path="/health", endpoint=health, is_public=True),
        HttpRoute(path="/metrics", endpoint=metrics, right="metrics"),
    )
    return Starlette(routes=[guarded(each, gate=gate) for each in (*own, *routes)])

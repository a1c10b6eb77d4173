"""What is answered over HTTP: a small ASGI application.

GET /health    200 while requests are taken, 503 before, while draining and after
GET /metrics   for Prometheus, in the text format that it asks for
"""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route


def make_app(
    *,
    trouble: Callable[[], str],
    registry: CollectorRegistry,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The application.

    Args:
      trouble: why no requests are taken; empty while they are.
      registry: what `/metrics` shows.
      routes: more of them.
    """

    async def health(request: Request) -> Response:
        cause = trouble()
        return PlainTextResponse(
            f"{cause or 'ok'}\n", status_code=503 if cause else 200
        )

    async def metrics(request: Request) -> Response:
        # Not OpenMetrics: for that the library writes colons in names as underscores.
        headers = {"content-type": CONTENT_TYPE_PLAIN_0_0_4}
        return Response(generate_latest(registry), headers=headers)

    return Starlette(
        routes=[Route("/health", health), Route("/metrics", metrics), *routes]
    )

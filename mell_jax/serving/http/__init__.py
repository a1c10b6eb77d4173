"""The HTTP door runs in the event loop of the gRPC server and tells health and metrics.

`make_app` guards the routes, `HttpServer` listens; a door gives more routes as
`HttpRoute` values.
"""

from mell_jax.serving.http.app import make_app
from mell_jax.serving.http.route import HttpRoute
from mell_jax.serving.http.server import HttpServer

__all__ = ["HttpRoute", "HttpServer", "make_app"]

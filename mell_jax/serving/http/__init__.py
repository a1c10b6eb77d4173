"""The HTTP door, in the event loop of the gRPC server: health and metrics.

`make_app` makes the routes, `HttpServer` listens; more routes can be given to both.
"""

from mell_jax.serving.http.app import make_app
from mell_jax.serving.http.server import HttpServer

__all__ = ["HttpServer", "make_app"]

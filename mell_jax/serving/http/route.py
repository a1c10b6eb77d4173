"""A route is guarded: its caller is found out before its endpoint runs.

    HttpRoute --guarded(gate)--> identify, answer, errors as responses --> starlette

A door describes its routes as values; only `make_app` makes them callable, so that
none reaches a client without the gate. A route is open to everybody only if it says
`is_public=True`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mell_jax.frontend import Caller
from mell_jax.serving.asker import Asker
from mell_jax.serving.client_values import known_request_id
from mell_jax.serving.http.basic import BASIC_CHALLENGE, with_basic
from mell_jax.serving.http.errors import error_response
from mell_jax.serving.observe.tracing import origin_of
from mell_jax.serving.security.gate import Gate

Endpoint = Callable[[Request, Asker], Awaitable[Response]]
Refuse = Callable[[Exception], Response]

_NOBODY = Caller(tenant="", scope="", may_send_special_tokens=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRoute:
    """A route has a path and an endpoint that answers it.

    Attributes:
      path: as starlette writes it.
      endpoint: answers; what it raises becomes the response of that problem.
      methods: those that it takes.
      right: what a token must allow, where clients need one.
      is_public: True for everybody, with a token or without; the endpoint then hears
        of a caller who has no name and no rights.
      is_for_browsers: True lets a browser ask its user for the token, which it shows as
        the password of HTTP's Basic scheme; only for what changes nothing, since other
        pages can make browsers ask for it, too.
      operation: how traces name what is done here.
      refuse: writes a problem in the words of the route's protocol.
    """

    path: str
    endpoint: Endpoint
    methods: tuple[str, ...] = ("GET",)
    right: str = "generate"
    is_public: bool = False
    is_for_browsers: bool = False
    operation: str = "text_completion"
    refuse: Refuse = error_response


def guarded(route: HttpRoute, *, gate: Gate) -> Route:
    """Makes a route that asks `gate` first and answers every problem."""

    async def answer(request: Request) -> Response:
        try:
            caller = _NOBODY
            if not route.is_public:
                headers = request.headers
                shown = with_basic(headers) if route.is_for_browsers else headers
                caller = gate.identify(shown, right=route.right)
            origin = origin_of(request.headers, operation=route.operation)
            return await route.endpoint(request, Asker(caller=caller, origin=origin))
        except Exception as error:  # the edge
            response = route.refuse(error)
            if route.is_for_browsers and response.status_code == 401:
                response.headers["www-authenticate"] = BASIC_CHALLENGE
            if request_id := known_request_id(request.headers):
                response.headers["x-request-id"] = request_id
            return response

    return Route(route.path, answer, methods=list(route.methods))

"""The door of the page has two routes, for those who may read metrics.

GET /fleet          the page, which has everything inside and nothing of the fleet
GET /fleet/events   moments of the fleet, as server-sent events
"""

from functools import partial
from typing import final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from mell_jax.page.html import live_page
from mell_jax.serving.asker import Asker
from mell_jax.serving.http.errors import error_body
from mell_jax.serving.http.route import HttpRoute
from mell_jax.serving.http.sse import (
    AsResponse,
    answer_while_heard,
    event_bytes,
    send_events,
)
from mell_jax.serving.page.feed import Feed
from mell_jax.serving.stall import Stalls

_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@final
class PageDoor:
    """The door shows one fleet to watchers.

    Args:
      feed: what they see.
      stalls: ends what goes to those who take nothing.
      comment_s: after so long without a moment a stream gets a comment.
    """

    def __init__(self, feed: Feed, *, stalls: Stalls, comment_s: float) -> None:
        self._feed = feed
        self._stalls = stalls
        self._comment_s = comment_s
        self._page = live_page()

    def routes(self) -> list[HttpRoute]:
        """Returns the routes, each for who may read metrics, by a browser's means."""
        describe = partial(HttpRoute, right="metrics", is_for_browsers=True)
        return [
            describe(path="/fleet", endpoint=self._show),
            describe(path="/fleet/events", endpoint=self._tell),
        ]

    async def _show(self, request: Request, asker: Asker) -> Response:
        headers = {**_HEADERS, "content-security-policy": self._page.policy}
        return HTMLResponse(self._page.html, headers=headers)

    async def _tell(self, request: Request, asker: Asker) -> Response:
        self._feed.enter()
        return AsResponse(self._send_all)

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(send: Send) -> None:
            await send_events(
                self._feed.watch(),
                send=send,
                headers=[(b"x-accel-buffering", b"no")],  # proxies pass it on at once
                comment_s=self._comment_s,
                failure=lambda error: event_bytes(error_body(error), name="error"),
            )

        try:
            await answer_while_heard(
                answer, receive=receive, send=send, stalls=self._stalls
            )
        finally:
            self._feed.leave()

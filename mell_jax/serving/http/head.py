"""Heads of requests: bounded as a whole, and with one length of the body only.

h11 bounds what of a head has not ended after one read, so one that comes in one piece
may be longer; and of two lengths it takes one, where a proxy may take the other.
"""

from typing import final

from starlette.types import ASGIApp, Receive, Scope, Send

_CLOSE = (b"connection", b"close")
_PLAIN = (b"content-type", b"text/plain; charset=utf-8")


@final
class BoundedHead:
    """Passes on requests whose heads are in order, and answers the others."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 431 to a long head and 400 to two lengths, and closes."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in headers)
        names = {name for name, _ in headers}
        if not (size <= self._max_bytes):
            text = f"the head of a request may have {self._max_bytes} bytes\n"
            await _refuse(send, status=431, text=text)
        elif {b"content-length", b"transfer-encoding"} <= names:
            text = "give Content-Length or Transfer-Encoding, not both\n"
            await _refuse(send, status=400, text=text)
        else:
            await self._app(scope, receive, send)


async def _refuse(send: Send, *, status: int, text: str) -> None:
    body = text.encode("ascii")
    length = (b"content-length", str(len(body)).encode("ascii"))
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [_PLAIN, _CLOSE, length],
        }
    )
    await send({"type": "http.response.body", "body": body})

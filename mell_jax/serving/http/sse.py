"""Answers go out over ASGI to clients that may be slow or gone, as events or whole.

A client that goes away cancels the work, which closes what it reads, which aborts what
is alive in the engine; whoever waits for `send` has a slow reader and holds up nobody.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import NoReturn, final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mell_jax.serving.problem import StalledReaderError
from mell_jax.serving.stall import Stalls

Headers = Sequence[tuple[bytes, bytes]]
_COMMENT = b": waiting\n\n"


def event_bytes(data: bytes, *, name: str = "") -> bytes:
    """Returns one event as it is sent; many APIs have no names of events."""
    head = b"event: " + name.encode("ascii") + b"\n" if name else b""
    return head + b"data: " + data + b"\n\n"


async def answer_while_heard(
    answer: Callable[[Send], Awaitable[None]],
    *,
    receive: Receive,
    send: Send,
    stalls: Stalls,
) -> None:
    """Answers; a client that is gone or takes nothing gets no more of it.

    Args:
      answer: sends the answer.
      receive: tells that the client is gone.
      send: where the answer goes.
      stalls: ends an answer that nobody reads.
    """
    work = asyncio.ensure_future(_guarded(answer, send=send, stalls=stalls))
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        work.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)
    with contextlib.suppress(asyncio.CancelledError, StalledReaderError):
        work.result()


async def send_events(
    events: AsyncGenerator[bytes],
    *,
    send: Send,
    headers: Headers,
    comment_s: float,
    failure: Callable[[Exception], bytes],
) -> None:
    """Sends a stream of events to its end.

    Args:
      events: whole ones, one or several at a time.
      send: where they go.
      headers: more of them.
      comment_s: after so long without an event a stream gets a comment, and its
        headers if it had none: proxies close what is silent.
      failure: the last events of a stream that an exception ends.

    Raises:
      Exception: what `events` raise before anything was sent: it has a status of its
        own. That is the first event, or a comment where it does not come soon.
    """
    stream = _EventStream(send, headers=headers)
    commenting = asyncio.ensure_future(stream.comment_every(comment_s))
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                await stream.send(event)
    except Exception as error:
        await _end(commenting)  # or it might begin the stream meanwhile
        if not stream.is_begun:
            raise
        await stream.send(failure(error))
    finally:
        await _end(commenting)
    await send({"type": "http.response.body", "body": b""})


@final
class AsResponse(Response):
    """Any ASGI application as what an endpoint returns."""

    def __init__(self, app: ASGIApp) -> None:
        """Takes the application, which answers all by itself."""
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application."""
        await self._app(scope, receive, send)


@final
class _EventStream:
    """Sends one stream of events, and comments while there are none."""

    def __init__(self, send: Send, *, headers: Headers) -> None:
        self.is_begun = False
        self._send = send
        self._headers = headers
        self._lock = asyncio.Lock()  # an event and a comment do not mix
        self._num_events = 0

    async def send(self, body: bytes) -> None:
        """Sends a whole event, or several."""
        self._num_events += 1
        async with self._lock:
            if not self.is_begun:
                await self._send(self._start())
                self.is_begun = True
            await self._send(
                {"type": "http.response.body", "body": body, "more_body": True}
            )

    async def comment_every(self, period_s: float) -> NoReturn:
        """Sends a comment after every period without an event."""
        while True:
            seen = self._num_events
            await asyncio.sleep(period_s)
            if self._num_events == seen and not self._lock.locked():
                await self.send(_COMMENT)
                self._num_events -= 1

    def _start(self) -> Message:
        return {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                *self._headers,
            ],
        }


async def _guarded(
    answer: Callable[[Send], Awaitable[None]], *, send: Send, stalls: Stalls
) -> None:
    with stalls.watch() as guard:

        async def guarded_send(message: Message) -> None:
            guard.begin()
            await send(message)
            guard.end()

        await answer(guarded_send)


async def _end(task: asyncio.Task[NoReturn]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""An exchange answers one request over ASGI, whole or as server-sent events.

A client that goes away cancels the work, which closes the streams, which aborts what
is alive in the engine; whoever waits for `send` has a slow reader and holds up nobody.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import NoReturn, final

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mell_jax.frontend import Delta
from mell_jax.serving.http.errors import error_body, error_response
from mell_jax.serving.openai.answers import Heading, Writer
from mell_jax.serving.openai.best import keep_best
from mell_jax.serving.openai.samples import Piece, Samples
from mell_jax.serving.problem import StalledReaderError
from mell_jax.serving.stall import Stalls

Streams = Sequence[AsyncGenerator[Delta]]
_COMMENT = b": waiting\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The client wants the answer in this style.

    Attributes:
      is_streamed: it comes as events.
      is_usage_streamed: the last of them has the usage.
      is_usage_continuous: each of them has it.
      num_shown: answers to each prompt that a whole one has, the best; None for all.
    """

    is_streamed: bool
    is_usage_streamed: bool
    is_usage_continuous: bool = False
    num_shown: int | None = None


@final
class Exchange:
    """An exchange is an ASGI application for a single request."""

    def __init__(
        self,
        streams: Streams,
        *,
        stalls: Stalls,
        samples: Samples,
        writer: Writer,
        heading: Heading,
        style: Style,
        headers: Sequence[tuple[bytes, bytes]],
        comment_s: float,
    ) -> None:
        """Runs nothing yet.

        Args:
          streams: one for each prompt.
          stalls: ends an answer that nobody reads.
          samples: reads their deltas.
          writer: of the API that was called.
          heading: of every object.
          style: of the answer.
          headers: of any answer.
          comment_s: after so long without an event a stream gets a comment, and its
            headers if it had none: proxies close what is silent.
        """
        self._streams = streams
        self._stalls = stalls
        self._samples = samples
        self._writer = writer
        self._heading = heading
        self._style = style
        self._headers = list(headers)
        self._comment_s = comment_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers; a client that is gone or takes nothing gets no more of it."""
        work = asyncio.ensure_future(self._guarded(scope, receive, send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError, StalledReaderError):
            work.result()

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stalls.watch() as guard:

            async def guarded_send(message: Message) -> None:
                guard.begin()
                await send(message)
                guard.end()

            await self._answer(scope, receive, guarded_send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(_merged(self._streams)) as deltas:
            if self._style.is_streamed:
                await self._stream(deltas, scope, receive, send)
                return
            try:
                response = await self._whole(deltas)
            except Exception as error:
                response = self._refusal(error)
        await response(scope, receive, send)

    async def _whole(self, deltas: AsyncGenerator[tuple[int, Delta]]) -> Response:
        choices: dict[int, list[Piece]] = {}
        async for prompt, delta in deltas:
            piece = self._samples.read(delta, prompt=prompt)
            choices.setdefault(piece.index, []).append(piece)
        pieces, made = self._samples.whole(choices), self._samples.n
        shown = made if self._style.num_shown is None else self._style.num_shown
        whole = self._writer.whole(
            self._heading,
            keep_best(pieces, made=made, shown=shown),
            usage=self._samples.usage(),
        )
        response = Response(msgspec.json.encode(whole), media_type="application/json")
        response.raw_headers += self._headers
        return response

    async def _stream(
        self,
        deltas: AsyncGenerator[tuple[int, Delta]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Errors before the first event have a status of their own.

        That is the first token, or a comment where it does not come soon.
        """
        events = _Events(send, start=self._start())
        commenting = asyncio.ensure_future(events.comment_every(self._comment_s))
        try:
            async for prompt, delta in deltas:
                piece = self._samples.read(delta, prompt=prompt)
                chunk = self._writer.chunk(self._heading, piece)
                if self._style.is_usage_continuous:
                    chunk = {**chunk, "usage": self._samples.usage()}
                await events.send(_event(msgspec.json.encode(chunk)))
            await events.send(self._ending())
        except Exception as error:
            await _end(commenting)  # or it might begin the stream meanwhile
            if not events.is_begun:
                await self._refusal(error)(scope, receive, send)
                return
            await events.send(_event(error_body(error)))
        finally:
            await _end(commenting)
        await send({"type": "http.response.body", "body": b""})

    def _refusal(self, error: Exception) -> Response:
        response = error_response(error)
        response.raw_headers += self._headers
        return response

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

    def _ending(self) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._style.is_usage_streamed:
            return done
        last = self._writer.last(self._heading, usage=self._samples.usage())
        return b"data: " + msgspec.json.encode(last) + b"\n\n" + done


@final
class _Events:
    """Sends one stream of events, and comments while there are none."""

    def __init__(self, send: Send, *, start: Message) -> None:
        self.is_begun = False
        self._send = send
        self._start = start
        self._lock = asyncio.Lock()  # an event and a comment do not mix
        self._num_events = 0

    async def send(self, body: bytes) -> None:
        """Sends a whole event, or several."""
        self._num_events += 1
        async with self._lock:
            if not self.is_begun:
                await self._send(self._start)
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


async def _end(task: asyncio.Task[NoReturn]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _merged(streams: Streams) -> AsyncGenerator[tuple[int, Delta]]:
    """Yields deltas of all streams as they come, each with the number of its stream."""
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as only:
            async for delta in only:
                yield 0, delta
        return
    waiting = {
        asyncio.ensure_future(_next(stream)): number
        for number, stream in enumerate(streams)
    }
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number = waiting.pop(task)
                if (ready := task.result()) is not None:
                    again = asyncio.ensure_future(_next(streams[number]))
                    waiting[again] = number
                    yield number, ready
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def _next(stream: AsyncGenerator[Delta]) -> Delta | None:
    return await anext(stream, None)

"""An exchange answers one request over ASGI, whole or as server-sent events.

A client that goes away cancels the work, which closes the streams, which aborts what
is alive in the engine; whoever waits for `send` has a slow reader and holds up nobody.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import final

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mell_jax.frontend import Delta
from mell_jax.serving.http.errors import error_body, error_response
from mell_jax.serving.openai.answers import Heading, Writer
from mell_jax.serving.openai.samples import Piece, Samples, join
from mell_jax.serving.problem import StalledReaderError
from mell_jax.serving.stall import Stalls

Streams = Sequence[AsyncGenerator[Delta]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The client wants the answer in this style."""

    is_streamed: bool
    is_usage_streamed: bool


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
        """
        self._streams = streams
        self._stalls = stalls
        self._samples = samples
        self._writer = writer
        self._heading = heading
        self._style = style
        self._headers = list(headers)

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
        whole = self._writer.whole(
            self._heading,
            [join(choices[index]) for index in sorted(choices)],
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
        """The status waits for the first token: until then errors have their own."""
        is_begun = False
        try:
            async for prompt, delta in deltas:
                if not is_begun:
                    is_begun = True
                    await send(self._start())
                piece = self._samples.read(delta, prompt=prompt)
                chunk = self._writer.chunk(self._heading, piece)
                await send(_event(msgspec.json.encode(chunk)))
            await send(_part(self._ending()))
        except Exception as error:
            if not is_begun:
                await self._refusal(error)(scope, receive, send)
                return
            await send(_event(error_body(error)))
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


def _event(data: bytes) -> Message:
    return _part(b"data: " + data + b"\n\n")


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


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

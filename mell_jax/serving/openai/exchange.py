"""An exchange answers one request over ASGI, whole or as server-sent events."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mell_jax.frontend import Delta
from mell_jax.serving.http.errors import error_body, error_response
from mell_jax.serving.http.sse import answer_while_heard, event_bytes, send_events
from mell_jax.serving.openai.answers import Heading, Writer
from mell_jax.serving.openai.best import keep_best
from mell_jax.serving.openai.samples import Piece, Samples
from mell_jax.serving.stall import Stalls

Streams = Sequence[AsyncGenerator[Delta]]


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
          heading: of every object, before the first token.
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

        async def answer(guarded_send: Send) -> None:
            await self._answer(scope, receive, guarded_send)

        await answer_while_heard(
            answer, receive=receive, send=send, stalls=self._stalls
        )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(_merged(self._streams)) as deltas:
            try:
                if self._style.is_streamed:
                    await self._stream(deltas, send)
                    return
                response = await self._whole(deltas)
            except Exception as error:
                response = error_response(error)
                response.raw_headers += self._headers
        await response(scope, receive, send)

    async def _whole(self, deltas: AsyncGenerator[tuple[int, Delta]]) -> Response:
        choices: dict[int, list[Piece]] = {}
        async for prompt, delta in deltas:
            piece = self._samples.read(delta, prompt=prompt)
            choices.setdefault(piece.index, []).append(piece)
        pieces, made = self._samples.whole(choices), self._samples.n
        shown = made if self._style.num_shown is None else self._style.num_shown
        for piece in pieces:
            self._heading = self._heading.at(piece.version)
        whole = self._writer.whole(
            self._heading,
            keep_best(pieces, made=made, shown=shown),
            usage=self._samples.usage(),
        )
        response = Response(msgspec.json.encode(whole), media_type="application/json")
        response.raw_headers += self._headers
        return response

    async def _stream(
        self, deltas: AsyncGenerator[tuple[int, Delta]], send: Send
    ) -> None:
        await send_events(
            self._events(deltas),
            send=send,
            headers=self._headers,
            comment_s=self._comment_s,
            failure=lambda error: event_bytes(error_body(error)),
        )

    async def _events(
        self, deltas: AsyncGenerator[tuple[int, Delta]]
    ) -> AsyncGenerator[bytes]:
        async for prompt, delta in deltas:
            piece = self._samples.read(delta, prompt=prompt)
            self._heading = self._heading.at(piece.version)
            for chunk in self._writer.chunks(self._heading, piece):
                usage = {}
                if self._style.is_usage_continuous:
                    usage = {"usage": self._samples.usage()}
                yield event_bytes(msgspec.json.encode({**chunk, **usage}))
        yield self._ending()

    def _ending(self) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._style.is_usage_streamed:
            return done
        last = self._writer.last(self._heading, usage=self._samples.usage())
        return event_bytes(msgspec.json.encode(last)) + done


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

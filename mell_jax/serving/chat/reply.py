"""A reply answers one request over ASGI, whole or as events that have names."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mell_jax.serving.chat.body import renamed
from mell_jax.serving.chat.events import Step, settled
from mell_jax.serving.chat.teller import Teller, encoded, told_by
from mell_jax.serving.http.errors import failure_of
from mell_jax.serving.http.route import Refuse
from mell_jax.serving.http.sse import Headers, answer_while_heard, send_events
from mell_jax.serving.stall import Stalls


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """A client is answered in this manner.

    Attributes:
      is_streamed: by events, and not by one object.
      headers: of any answer.
      refuse: writes a problem before the first event.
      names: of fields, where the protocol has others than those of the rules.
      comment_s: see `send_events`.
    """

    is_streamed: bool
    headers: Headers
    refuse: Refuse
    names: Mapping[str, str]
    comment_s: float


@final
class Reply:
    """A reply is an ASGI application for a single request."""

    def __init__(
        self,
        steps: AsyncGenerator[Step],
        *,
        teller: Teller,
        manner: Manner,
        stalls: Stalls,
    ) -> None:
        """Runs nothing yet.

        Args:
          steps: of the answer.
          teller: of the protocol.
          manner: of the answer.
          stalls: ends an answer that nobody reads.
        """
        self._steps = steps
        self._teller = teller
        self._manner = manner
        self._stalls = stalls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers; a client that is gone or takes nothing gets no more of it."""

        async def answer(guarded_send: Send) -> None:
            await self._answer(scope, receive, guarded_send)

        await answer_while_heard(
            answer, receive=receive, send=send, stalls=self._stalls
        )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._steps):
            try:
                if self._manner.is_streamed:
                    await self._stream(send)
                    return
                response = await self._whole()
            except Exception as error:
                response = self._manner.refuse(error)
                response.raw_headers += self._manner.headers
        await response(scope, receive, send)

    async def _whole(self) -> Response:
        steps = [step async for step in self._steps]
        for step in settled(steps):
            told_by(self._teller, step)
        response = Response(
            msgspec.json.encode(self._teller.whole()), media_type="application/json"
        )
        response.raw_headers += self._manner.headers
        return response

    async def _stream(self, send: Send) -> None:
        await send_events(
            self._events(),
            send=send,
            headers=self._manner.headers,
            comment_s=self._manner.comment_s,
            failure=self._failure,
        )

    def _failure(self, error: Exception) -> bytes:
        failure = failure_of(renamed(error, self._manner.names))
        return encoded(self._teller.fail(failure))

    async def _events(self) -> AsyncGenerator[bytes]:
        async for step in self._steps:
            if told := told_by(self._teller, step):
                yield encoded(told)

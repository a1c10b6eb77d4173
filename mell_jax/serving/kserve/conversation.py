"""Several requests share one stream and are answered as they get ready.

    requests -> one task each, at most so many -> a short queue -> responses

A reader that does not read fills the queue, then the tasks wait, then no request is
read any more; meanwhile tokens coalesce in the front end. However the stream ends, no
task outlives it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from mell_jax.serving.problem import MalformedMessageError

MAX_OPEN = 256
_MAX_READY = 16


@dataclass(frozen=True, slots=True)
class _End:
    """Nothing comes after it."""

    failure: BaseException | None


RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


async def converse(
    requests: AsyncIterator[RequestT],
    *,
    answer: Callable[[RequestT], AsyncGenerator[ResponseT]],
    max_open: int = MAX_OPEN,
) -> AsyncGenerator[ResponseT]:
    """Yields the responses of all requests, in order for each of them.

    Args:
      requests: as they come.
      answer: responses to one request; raises nothing.
      max_open: requests that are answered at a time; others are not read yet.

    Raises:
      MalformedMessageError: of `requests`, once what came before is answered.
    """
    ready: asyncio.Queue[ResponseT | _End] = asyncio.Queue(_MAX_READY)
    room = asyncio.Semaphore(max_open)

    async def relay(request: RequestT) -> None:
        try:
            async with contextlib.aclosing(answer(request)) as responses:
                async for response in responses:
                    await ready.put(response)
        finally:
            room.release()

    async def read() -> None:
        malformed = None
        async with asyncio.TaskGroup() as group:
            try:
                async for request in requests:
                    await room.acquire()
                    group.create_task(relay(request))
            except MalformedMessageError as error:
                malformed = error
        if malformed is not None:
            raise malformed

    async def read_to_the_end() -> None:
        (failure,) = await asyncio.gather(read(), return_exceptions=True)
        await ready.put(_End(failure))

    reader = asyncio.create_task(read_to_the_end())
    try:
        while not isinstance(response := await ready.get(), _End):
            yield response
        if response.failure is not None:
            raise response.failure
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)

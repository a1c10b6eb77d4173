"""Reads the body of a request, with bounds on its size and on its time."""

import asyncio
import contextlib

from starlette.requests import Request

from mell_jax.serving.problem import BodyTooLargeError, MalformedMessageError

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_BODY_S = 30.0


async def read_body(request: Request, *, timeout_s: float = MAX_BODY_S) -> bytes:
    """All of the body.

    Raises:
      BodyTooLargeError: it is longer than any good one.
      MalformedMessageError: it takes too long to come.
    """
    parts, size = [], 0
    try:
        async with (
            asyncio.timeout(timeout_s),
            contextlib.aclosing(request.stream()) as stream,
        ):
            async for part in stream:
                size += len(part)
                if not (size <= MAX_BODY_BYTES):
                    raise BodyTooLargeError(
                        f"the body may have {MAX_BODY_BYTES} bytes, it has more"
                    )
                parts.append(part)
    except TimeoutError as error:
        raise MalformedMessageError(
            f"the body did not come within {timeout_s:g} s"
        ) from error
    return b"".join(parts)

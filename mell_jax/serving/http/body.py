"""Reads the bodies of requests, with bounds on size and time, of one and of all."""

import asyncio
import contextlib
from typing import final

from starlette.requests import ClientDisconnect, Request

from mell_jax.frontend import OverloadedError
from mell_jax.serving.problem import BodyTooLargeError, MalformedMessageError

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_BODY_S = 30.0
MAX_BODIES_BYTES = 64 * MAX_BODY_BYTES


@final
class Bodies:
    """Reads the bodies of requests in one event loop, and counts what they hold."""

    def __init__(
        self, *, timeout_s: float = MAX_BODY_S, max_bytes: int = MAX_BODIES_BYTES
    ) -> None:
        """Starts with no body under way.

        Args:
          timeout_s: that a body may take.
          max_bytes: of all bodies that have begun and not ended.
        """
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._num_bytes = 0

    async def read(self, request: Request) -> bytes:
        """Returns all of a body.

        Raises:
          BodyTooLargeError: it is longer than any good one.
          MalformedMessageError: it takes too long to come, or its end never comes.
          OverloadedError: too much is on its way already.
        """
        parts, size = [], 0
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                contextlib.aclosing(request.stream()) as stream,
            ):
                async for part in stream:
                    size += len(part)
                    self._num_bytes += len(part)
                    self._check(size)
                    parts.append(part)
        except TimeoutError as error:
            raise MalformedMessageError(
                f"the body did not come within {self._timeout_s:g} s"
            ) from error
        except ClientDisconnect as error:
            raise MalformedMessageError("the body ended before its end") from error
        finally:
            self._num_bytes -= size
        return b"".join(parts)

    def _check(self, size: int) -> None:
        if not (size <= MAX_BODY_BYTES):
            raise BodyTooLargeError(
                f"the body may have {MAX_BODY_BYTES} bytes, it has more"
            )
        if not (self._num_bytes <= self._max_bytes):
            raise OverloadedError(
                f"the bodies of all requests together may have {self._max_bytes} bytes "
                "at a time, they have more",
                retry_after_s=1.0,
            )

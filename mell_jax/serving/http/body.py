"""Reads the bodies of requests, with bounds on size and time, of one and of all.

They may be compressed by gzip; what comes out is bounded as what comes in is.
"""

import asyncio
import contextlib
import zlib
from typing import final

from starlette.requests import ClientDisconnect, Request

from mell_jax.frontend import OverloadedError
from mell_jax.serving.problem import (
    BodyTooLargeError,
    MalformedMessageError,
    UnknownEncodingError,
)

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_BODY_S = 30.0
MAX_BODIES_BYTES = 64 * MAX_BODY_BYTES
_GZIP = 16 + zlib.MAX_WBITS  # how zlib is told of a gzip header


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
        """Returns all of a body, without its compression.

        Raises:
          BodyTooLargeError: it is longer than any good one, as sent or as meant.
          UnknownEncodingError: it is compressed by something else than gzip.
          MalformedMessageError: it takes too long to come, or its end never comes.
          OverloadedError: too much is on its way already.
        """
        reader = _reader_of(request)
        parts, num_sent, size = [], 0, 0
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                contextlib.aclosing(request.stream()) as stream,
            ):
                async for part in stream:
                    meant = reader.read(part)
                    num_sent += len(part)
                    size += len(meant)
                    self._num_bytes += len(meant)
                    self._check(max(num_sent, size))
                    parts.append(meant)
            reader.end()
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


@final
class _Plain:
    """Reads a body as it is sent."""

    def read(self, part: bytes) -> bytes:
        return part

    def end(self) -> None:
        pass


@final
class _Gzip:
    """Reads a body that is one member of gzip, never much more than a good one has."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(_GZIP)

    def read(self, part: bytes) -> bytes:
        if self._inflater.eof and part:
            raise MalformedMessageError("the body goes on behind the end of its gzip")
        try:
            meant = self._inflater.decompress(part, MAX_BODY_BYTES + 1)
        except zlib.error as error:
            raise MalformedMessageError(f"the body is no gzip: {error}") from error
        if self._inflater.unused_data:
            raise MalformedMessageError("the body goes on behind the end of its gzip")
        return meant

    def end(self) -> None:
        if not self._inflater.eof:
            raise MalformedMessageError("the body's gzip ends before its end")


def _reader_of(request: Request) -> _Plain | _Gzip:
    named = ",".join(request.headers.getlist("content-encoding"))
    encodings = [each.strip().lower() for each in named.split(",")]
    match [each for each in encodings if each not in ("", "identity")]:
        case []:
            return _Plain()
        case ["gzip" | "x-gzip"]:
            return _Gzip()
        case _:
            raise UnknownEncodingError(
                f"the body may be compressed once, by gzip, got {named!r:.100}"
            )

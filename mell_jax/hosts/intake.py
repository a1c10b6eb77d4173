"""Bytes of a stream become messages, the large ones without a copy on the way.

    room() -> the socket writes there -> filled(count) -> messages that are whole

What is small comes by a buffer that is there for good; a message that is larger has
memory of its own, into which the rest of it is read.
"""

from typing import Any, final

import numpy as np

from mell_jax.hosts.wire import HostCodec
from mell_jax.serving.processes.wire import HEAD, WireError

_SMALL_BYTES = 2**18


@final
class Intake:
    """Takes the bytes of one stream.

    Attributes:
      max_bytes: of a message.
    """

    def __init__(self, codec: HostCodec, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._codec = codec
        self._small = memoryview(bytearray(_SMALL_BYTES))
        self._have = 0  # bytes of it
        self._large: memoryview | None = None  # the body of a message
        self._large_have = 0
        self._kind = 0  # of that message

    def room(self) -> memoryview:
        """Returns where the next bytes are to be written; never empty."""
        if self._large is not None:
            return self._large[self._large_have :]
        return self._small[self._have :]

    def filled(self, count: int) -> list[Any]:
        """Returns the messages that are whole, now that so many bytes have come.

        Raises:
          WireError: the stream cannot be understood; it is of no more use.
        """
        if self._large is None:
            self._have += count
            return self._read_small()
        self._large_have += count
        if self._large_have < len(self._large):
            return []
        body, self._large = self._large, None
        return [self._codec.decode(self._kind, body)]

    def _read_small(self) -> list[Any]:
        messages, at = [], 0
        while self._have - at >= HEAD.size:
            size, kind = HEAD.unpack_from(self._small, at)
            if not (size <= self.max_bytes):
                raise WireError(
                    f"a message of {size} bytes; at most {self.max_bytes} are allowed"
                )
            start = at + HEAD.size
            if self._have - start < size:
                if size > _SMALL_BYTES - HEAD.size:
                    self._begin_large(self._small[start : self._have], kind, size)
                    at = self._have
                break
            body = bytes(self._small[start : start + size])  # it may be kept
            messages.append(self._codec.decode(kind, memoryview(body)))
            at = start + size
        left = self._have - at
        self._small[:left] = bytes(self._small[at : self._have])
        self._have = left
        return messages

    def _begin_large(self, begun: memoryview, kind: int, size: int) -> None:
        self._large = memoryview(np.empty(size, np.uint8))
        self._large[: len(begun)] = begun
        self._large_have, self._kind = len(begun), kind

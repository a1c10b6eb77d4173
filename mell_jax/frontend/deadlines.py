"""Deadlines bound how long a request waits and runs: two timers of the event loop.

They free what the request holds in the engine at once, whatever its reader does.
"""

import asyncio
from types import TracebackType
from typing import Self, final

from mell_jax.frontend.errors import QueueTimeoutError, RequestTimeoutError
from mell_jax.frontend.front_end import OpenRequest
from mell_jax.frontend.limits import AdmissionLimits


@final
class Deadlines:
    """Ends one request that waits or runs too long; use it with `with`."""

    def __init__(self, request: OpenRequest, *, limits: AdmissionLimits) -> None:
        self._request = request
        self._limits = limits
        self._queue: asyncio.TimerHandle | None = None
        self._whole: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        fail = self._request.fail
        if (queue_s := self._limits.queue_timeout_s) is not None:
            self._queue = loop.call_later(queue_s, fail, QueueTimeoutError(queue_s))
        if (whole_s := self._limits.request_timeout_s) is not None:
            self._whole = loop.call_later(whole_s, fail, RequestTimeoutError(whole_s))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.begin()
        if self._whole is not None:
            self._whole.cancel()

    def begin(self) -> None:
        """Records that the request waits no longer: it has a token."""
        if self._queue is not None:
            self._queue.cancel()
            self._queue = None

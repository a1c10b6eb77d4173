"""Deadlines bound how long a request waits and runs: two timers of the event loop.

They free what the request holds in the engine at once, whatever its reader does.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self, final

from mell_jax.engine.fleet_view import SleepState
from mell_jax.engine.frames import EngineLoad
from mell_jax.frontend.errors import QueueTimeoutError, RequestTimeoutError
from mell_jax.frontend.front_end import OpenRequest
from mell_jax.frontend.limits import AdmissionLimits


@final
class Deadlines:
    """Ends one request that waits or runs too long; use it with `with`.

    Args:
      request: that may be ended.
      limits: how long it may wait and run.
      load: of the engine, which may rest at the time.
    """

    def __init__(
        self,
        request: OpenRequest,
        *,
        limits: AdmissionLimits,
        load: Callable[[], EngineLoad] | None,
    ) -> None:
        self._request = request
        self._limits = limits
        self._load = load
        self._queue: asyncio.TimerHandle | None = None
        self._whole: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if (queue_s := self._limits.queue_timeout_s) is not None:
            self._queue = loop.call_later(queue_s, self._end_wait, queue_s)
        if (whole_s := self._limits.request_timeout_s) is not None:
            self._whole = loop.call_later(whole_s, self._end_run, whole_s)
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

    def _end_wait(self, waited_s: float) -> None:
        self._request.fail(QueueTimeoutError(waited_s, rest=self._rest()))

    def _end_run(self, ran_s: float) -> None:
        self._request.fail(RequestTimeoutError(ran_s, rest=self._rest()))

    def _rest(self) -> str:
        """Returns what the engine does if it makes no steps; empty if it does."""
        fleet = None if self._load is None else self._load().fleet
        if fleet is None or fleet.serving is None:
            return ""
        if fleet.serving.sleep is not SleepState.AWAKE:
            return "sleeps"
        return "is paused" if fleet.serving.is_paused else ""

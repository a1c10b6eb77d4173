"""Traces show requests that are over: when, how much, how they ended.

    generate -> Tracing.watch -> recorder(RequestRecord), once, at the end

Nothing happens per token, and nothing at all without a recorder. A record has nothing
of what was asked or answered, and none of the client's words but its trace.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from mell_jax.frontend.meter import RequestOutcome, Watches


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Tells where a request comes from.

    Attributes:
      operation: what the client called: "text_completion" or "chat".
      traceparent: the client's place in a trace, as W3C writes it; empty for none.
    """

    operation: str = "text_completion"
    traceparent: str = ""


ANYWHERE = Origin()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """Records one request, from the door to its last token.

    Attributes:
      origin: where it came from.
      model: the name of the model served.
      start_ns: since the epoch, as is `end_ns`.
      outcome: what it came to; None when it was refused.
      error: the type of what it failed with; empty when it did not.
    """

    origin: Origin
    model: str
    start_ns: int
    end_ns: int
    outcome: RequestOutcome | None
    error: str


Recorder = Callable[[RequestRecord], None]
"""Takes a record without blocking; called in the event loop."""


@final
class Trace:
    """Follows one request that is being recorded, or not; use it with `with`."""

    __slots__ = ("_model", "_origin", "_recorder", "_start_ns", "_watches")

    def __init__(
        self, recorder: Recorder | None, *, origin: Origin, model: str, start_ns: int
    ) -> None:
        self._recorder = recorder
        self._origin = origin
        self._model = model
        self._start_ns = start_ns
        self._watches: Watches | None = None

    def follow(self, watches: Watches) -> Watches:
        """Records that the request was accepted; these watches see its samples."""
        if self._recorder is not None:
            self._watches = watches
        return watches

    def __enter__(self) -> "Trace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: object
    ) -> None:
        if self._recorder is None:
            return
        is_error = kind is not None and issubclass(kind, Exception)
        record = RequestRecord(
            origin=self._origin,
            model=self._model,
            start_ns=self._start_ns,
            end_ns=time.time_ns(),
            outcome=None if self._watches is None else self._watches.outcome,
            error=kind.__name__ if kind is not None and is_error else "",
        )
        self._recorder(record)


@final
class Tracing:
    """Records the requests of a front end; does nothing without a recorder."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder
        self._silent = Trace(None, origin=ANYWHERE, model="", start_ns=0)

    def watch(self, origin: Origin, *, model: str) -> Trace:
        """Begins to follow a request that has come; `with` it until it is over."""
        if self._recorder is None:
            return self._silent
        return Trace(
            self._recorder, origin=origin, model=model, start_ns=time.time_ns()
        )

"""A problem tells every door what went wrong: the kind, whose fault, what to do.

A caller's mistake is named field by field; what may work later says when to try again;
a bug of ours is told by an opaque id alone, which the log has next to its cause.
"""

import uuid
from dataclasses import dataclass

import grpc

from mell_jax.engine.params import InvalidRequestError
from mell_jax.events import Event, tell
from mell_jax.frontend import (
    DuplicateRequestError,
    EngineDeadError,
    OverloadedError,
    QueueTimeoutError,
    RequestTimeoutError,
    UnknownModelError,
)
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError


class MalformedMessageError(ValueError):
    """The bytes are no message of the expected type."""


class BodyTooLargeError(ValueError):
    """The body has more bytes than any good request has."""


class UnknownEncodingError(ValueError):
    """The body is compressed in a way that is not read here."""


class UnknownRouteError(LookupError):
    """No route answers at this path."""


class UnauthenticatedError(PermissionError):
    """Nobody knows who calls."""


class ForbiddenError(PermissionError):
    """The caller is known and may not."""


class UnsupportedError(NotImplementedError):
    """The server does not have this part of the contract."""


class MissingTokenizerError(RuntimeError):
    """Text is asked of a server that knows token ids only."""


class StalledReaderError(RuntimeError):
    """The client does not take what waits for it."""


class NotAnsweredError(RuntimeError):
    """The engine did not answer an operator in time."""


class DrainingError(RuntimeError):
    """The server finishes what it has and takes nothing new."""


MAX_MESSAGE_BYTES = 1000
"""Of a message's UTF-8. gRPC sends it thrice as long, as %F0%9F%98%80, and once more in
base64, all in metadata of which its clients take 8 KiB for sure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem is a failure as the caller is told.

    Attributes:
      code: its kind, in gRPC's words.
      message: never has our own secrets or a traceback; at most `MAX_MESSAGE_BYTES`
        of valid UTF-8, whatever a caller has said.
      field: the parameter at fault; empty when it is none alone.
      retry_after_s: when to try again; None when that would not help.
    """

    code: grpc.StatusCode
    message: str
    field: str = ""
    retry_after_s: float | None = None


_CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    MalformedMessageError: grpc.StatusCode.INVALID_ARGUMENT,
    BodyTooLargeError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownEncodingError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    UnknownRouteError: grpc.StatusCode.NOT_FOUND,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    DuplicateRequestError: grpc.StatusCode.ALREADY_EXISTS,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    QueueTimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    RequestTimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    StalledReaderError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DrainingError: grpc.StatusCode.UNAVAILABLE,
    EngineDeadError: grpc.StatusCode.UNAVAILABLE,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    MissingTokenizerError: grpc.StatusCode.FAILED_PRECONDITION,
    NotPossibleError: grpc.StatusCode.FAILED_PRECONDITION,
    UnknownTargetError: grpc.StatusCode.NOT_FOUND,
    NotAnsweredError: grpc.StatusCode.UNAVAILABLE,
}


def problem_of(error: Exception) -> Problem:
    """Returns what to tell the caller about `error`; the log gets a line.

    The line has nothing that the caller has said, as the message may.
    """
    code = _CODES.get(type(error))
    if code is None:
        return _internal(error)
    field = error.field if isinstance(error, InvalidRequestError) else ""
    tell(
        Event.REQUEST_REFUSED,
        text=f"a request was refused: {code.name}",
        code=code.name,
        kind=type(error).__name__,
        field=field,
    )
    return Problem(
        code=code,
        message=_bounded(str(error)),
        field=field,
        retry_after_s=_retry_after_s(error),
    )


def _bounded(message: str) -> str:
    """Returns as much of a message as any transport takes, without lone surrogates."""
    data = message.encode("utf-8", "replace")
    return data[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")


def _retry_after_s(error: Exception) -> float | None:
    match error:
        case OverloadedError():
            return error.retry_after_s
        case DrainingError() | QueueTimeoutError() | EngineDeadError(tokens_sent=0):
            # not after the first token: a blind retry would repeat what was sent
            return 1.0
    return None


def _internal(error: Exception) -> Problem:
    error_id = uuid.uuid4().hex[:12]
    tell(
        Event.REQUEST_FAILED,
        text=f"internal error {error_id}",
        error=error,
        error_id=error_id,
    )
    return Problem(
        code=grpc.StatusCode.INTERNAL,
        message=f"the request failed inside the server; its log says why at {error_id}",
    )

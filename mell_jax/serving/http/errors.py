"""A problem becomes an HTTP status and OpenAI's error object."""

import math
from dataclasses import dataclass

import grpc
import msgspec
from starlette.responses import Response

from mell_jax.frontend import QueueTimeoutError, UnknownModelError
from mell_jax.serving.problem import (
    BodyTooLargeError,
    UnknownEncodingError,
    problem_of,
)

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNIMPLEMENTED: 400,  # clients try again on 5xx
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.INTERNAL: 500,
}
_STATUS_OF_TYPE: dict[type[Exception], int] = {
    BodyTooLargeError: 413,
    UnknownEncodingError: 415,
    QueueTimeoutError: 503,
}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_CODE_OF_TYPE: dict[type[Exception], str] = {UnknownModelError: "model_not_found"}
_CODES = {
    401: "invalid_api_key",
    429: "rate_limit_exceeded",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure is a problem as HTTP tells it, whatever the words of a protocol.

    Attributes:
      status: of HTTP.
      message: see `Problem`.
      field: the parameter at fault; empty when it is none alone.
      code: OpenAI's word for it, if it has one.
      retry_after_s: when to try again; None when that would not help.
    """

    status: int
    message: str
    field: str
    code: str | None
    retry_after_s: float | None


def failure_of(error: Exception) -> Failure:
    """Returns what to tell of an error; logs our own faults."""
    problem = problem_of(error)
    status = _STATUS_OF_TYPE.get(type(error)) or _STATUS[problem.code]
    return Failure(
        status=status,
        message=problem.message,
        field=problem.field,
        code=_CODE_OF_TYPE.get(type(error)) or _CODES.get(status),
        retry_after_s=problem.retry_after_s,
    )


def error_body(error: Exception) -> bytes:
    """Returns the error object, also for a stream's middle; logs our own faults."""
    return _body(failure_of(error))


def error_response(error: Exception) -> Response:
    """Returns the answer to a request that failed before its first byte."""
    failure = failure_of(error)
    return failure_response(failure, body=_body(failure))


def failure_response(failure: Failure, *, body: bytes) -> Response:
    """Returns the answer to a request that failed, with a protocol's error object."""
    headers = {}
    if failure.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(failure.retry_after_s))
    if failure.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(
        body,
        status_code=failure.status,
        headers=headers,
        media_type="application/json",
    )


def _body(failure: Failure) -> bytes:
    kind = "server_error" if failure.status >= 500 else "invalid_request_error"
    return msgspec.json.encode(
        {
            "error": {
                "message": failure.message,
                "type": _TYPES.get(failure.status, kind),
                "param": failure.field or None,
                "code": failure.code,
            }
        }
    )

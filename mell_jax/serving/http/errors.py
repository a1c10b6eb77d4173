"""A problem becomes an HTTP status and OpenAI's error object."""

import math

import grpc
import msgspec
from starlette.responses import Response

from mell_jax.frontend import QueueTimeoutError, UnknownModelError
from mell_jax.serving.problem import (
    BodyTooLargeError,
    Problem,
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


def error_body(error: Exception) -> bytes:
    """Returns the error object, also for a stream's middle; logs our own faults."""
    problem = problem_of(error)
    return _body(error, problem, status=_status(error, problem))


def error_response(error: Exception) -> Response:
    """Returns the answer to a request that failed before its first byte."""
    problem = problem_of(error)
    status = _status(error, problem)
    headers = {}
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(problem.retry_after_s))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(
        _body(error, problem, status=status),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


def _status(error: Exception, problem: Problem) -> int:
    return _STATUS_OF_TYPE.get(type(error)) or _STATUS[problem.code]


def _body(error: Exception, problem: Problem, *, status: int) -> bytes:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return msgspec.json.encode(
        {
            "error": {
                "message": problem.message,
                "type": _TYPES.get(status, kind),
                "param": problem.field or None,
                "code": _CODE_OF_TYPE.get(type(error)) or _CODES.get(status),
            }
        }
    )

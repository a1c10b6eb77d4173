"""Problems in Anthropic's words."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from mell_jax.serving.anthropic.asking import FIELD_NAMES
from mell_jax.serving.chat.body import renamed
from mell_jax.serving.chat.wish import Json
from mell_jax.serving.http.errors import Failure, failure_of, failure_response

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_object(failure: Failure) -> Json:
    """Returns the error object, whole or as an event of a stream."""
    kind = "api_error" if failure.status >= 500 else "invalid_request_error"
    told = {"type": _TYPES.get(failure.status, kind), "message": failure.message}
    return {"type": "error", "error": told}


def refuse(error: Exception) -> Response:
    """Returns the answer to a request that failed before its first byte."""
    failure = failure_of(renamed(error, FIELD_NAMES))
    return failure_response(failure, body=msgspec.json.encode(error_object(failure)))

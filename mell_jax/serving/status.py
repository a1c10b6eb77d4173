"""What went wrong, as a gRPC status with machine-readable details.

A caller's mistake is named field by field; what may work later says when to try again;
a bug of ours is told by an opaque id alone, which the log has next to its cause.
"""

import logging
import uuid
from collections.abc import Iterator

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend import (
    DuplicateRequestError,
    EngineDeadError,
    OverloadedError,
    UnknownModelError,
)

_logger = logging.getLogger(__name__)


class MalformedMessageError(ValueError):
    """Bytes that are no message of the expected type."""


class UnsupportedError(NotImplementedError):
    """A part of the contract that this server does not have."""


class MissingTokenizerError(RuntimeError):
    """Text is asked of a server that knows token ids only."""


class DrainingError(RuntimeError):
    """The server finishes what it has and takes nothing new."""


_CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    MalformedMessageError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    DuplicateRequestError: grpc.StatusCode.ALREADY_EXISTS,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DrainingError: grpc.StatusCode.UNAVAILABLE,
    EngineDeadError: grpc.StatusCode.UNAVAILABLE,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    MissingTokenizerError: grpc.StatusCode.FAILED_PRECONDITION,
}


def status_of(error: Exception) -> status_pb2.Status:
    """The status that tells the caller what to do about `error`."""
    code = _CODES.get(type(error))
    if code is None:
        return _internal(error)
    status = status_pb2.Status(code=code.value[0], message=str(error))
    for detail in _details(error):
        status.details.add().Pack(detail)
    return status


def _details(error: Exception) -> Iterator[Message]:
    match error:
        case InvalidRequestError():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=error.field, description=str(error)
            )
            yield error_details_pb2.BadRequest(field_violations=[violation])
        case OverloadedError():
            yield _retry_after(error.retry_after_s)
        case DrainingError() | EngineDeadError(tokens_sent=0):
            # not after the first token: a blind retry would repeat what was sent
            yield _retry_after(1.0)


def _retry_after(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(round(1000 * seconds))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _internal(error: Exception) -> status_pb2.Status:
    error_id = uuid.uuid4().hex[:12]
    _logger.error("internal error %s", error_id, exc_info=error)
    return status_pb2.Status(
        code=grpc.StatusCode.INTERNAL.value[0],
        message=f"the request failed inside the server; its log says why at {error_id}",
    )

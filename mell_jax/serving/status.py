"""A problem becomes a gRPC status with machine-readable details."""

from collections.abc import Iterator

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from mell_jax.serving.problem import Problem, problem_of


def status_of(error: Exception) -> status_pb2.Status:
    """Returns the status that tells the caller what to do about `error`."""
    problem = problem_of(error)
    status = status_pb2.Status(code=problem.code.value[0], message=problem.message)
    for detail in _details(problem):
        status.details.add().Pack(detail)
    return status


def _details(problem: Problem) -> Iterator[Message]:
    if problem.code is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=problem.field or "message", description=problem.message
        )
        yield error_details_pb2.BadRequest(field_violations=[violation])
    if problem.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(1000 * problem.retry_after_s))
        yield error_details_pb2.RetryInfo(retry_delay=delay)

"""Messages of `mell.v1` become what is asked of the engine; pure functions."""

from collections.abc import Callable, Mapping

from google.protobuf.message import Message

from mell_jax.engine.admin import (
    AbortOpen,
    AskServing,
    Drain,
    ListPlacements,
    Migrate,
    NameWeights,
    Pause,
    ResetPrefixCache,
    Resume,
    SetPolicy,
    Sleep,
    Snapshot,
    Undrain,
    Wake,
)
from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.admin.controls import AbortIds, Asked, PathUpdate, checked
from mell_jax.serving.proto import mell_admin_pb2 as pb

_ASKED: Mapping[type[Message], Callable[..., Asked]] = {
    pb.ListPlacementsRequest: ListPlacements,
    pb.MigrateRequest: Migrate,
    pb.DrainRequest: Drain,
    pb.UndrainRequest: Undrain,
    pb.SnapshotRequest: Snapshot,
    pb.SetPolicyRequest: SetPolicy,
    pb.UpdateWeightsRequest: PathUpdate,
    pb.NameWeightsRequest: NameWeights,
    pb.PauseRequest: Pause,
    pb.ResumeRequest: Resume,
    pb.SleepRequest: Sleep,
    pb.WakeRequest: Wake,
    pb.GetServingRequest: AskServing,
    pb.ResetPrefixCacheRequest: ResetPrefixCache,
}
"""Fields of a message are those of what is asked, by the same names."""
_REQUIRED: Mapping[type[Message], tuple[str, ...]] = {
    pb.MigrateRequest: ("request", "device"),
    pb.DrainRequest: ("device",),
    pb.UndrainRequest: ("device",),
    pb.SetPolicyRequest: ("policy",),
    pb.UpdateWeightsRequest: ("path",),
    pb.NameWeightsRequest: ("version",),
}


def asked_of(request: Message) -> Asked:
    """Reads what an operator asks.

    Raises:
      InvalidRequestError: a required field is not set, or a value is out of range.
    """
    if isinstance(request, pb.AbortRequestsRequest):
        return _abort_of(request)
    kind = type(request)
    for name in _REQUIRED.get(kind, ()):
        if not request.HasField(name):
            raise InvalidRequestError(name, "must be set")
    given = {field.name: value for field, value in request.ListFields()}
    return checked(lambda: _ASKED[kind](**given))


def _abort_of(request: pb.AbortRequestsRequest) -> AbortIds | AbortOpen:
    ids = tuple(request.request_ids)
    if bool(ids) == request.all:
        raise InvalidRequestError(
            "request_ids",
            f"or all must be given, one of the two, got {len(ids)} ids and all="
            f"{str(request.all).lower()}",
        )
    return AbortIds(request_ids=ids) if ids else AbortOpen()

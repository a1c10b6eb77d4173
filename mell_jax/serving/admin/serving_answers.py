"""Answers about pauses, sleep and weights become messages of `mell.v1`."""

from collections.abc import Callable, Mapping

from google.protobuf.message import Message

from mell_jax.engine.admin import (
    PrefixCacheReset,
    RequestsAborted,
    ServingState,
    WeightsUpdated,
)
from mell_jax.serving.proto import mell_admin_pb2 as pb

_STATES: Mapping[type[Message], Callable[..., Message]] = {
    pb.NameWeightsRequest: pb.NameWeightsResponse,
    pb.PauseRequest: pb.PauseResponse,
    pb.ResumeRequest: pb.ResumeResponse,
    pb.SleepRequest: pb.SleepResponse,
    pb.WakeRequest: pb.WakeResponse,
    pb.GetServingRequest: pb.GetServingResponse,
}


def serving_response(
    answer: WeightsUpdated | ServingState | PrefixCacheReset | RequestsAborted,
    *,
    request: Message,
) -> Message:
    """Writes an answer."""
    match answer:
        case WeightsUpdated():
            return pb.UpdateWeightsResponse(
                model=answer.model,
                version=answer.version,
                nbytes=answer.nbytes,
                restarted=answer.restarted,
                aborted=answer.aborted,
            )
        case ServingState():
            return _STATES[type(request)](state=_state_of(answer))
        case PrefixCacheReset():
            return pb.ResetPrefixCacheResponse(pages=answer.pages)
        case RequestsAborted():
            return pb.AbortRequestsResponse(aborted=answer.aborted)


def _state_of(state: ServingState) -> pb.ServingState:
    return pb.ServingState(
        is_paused=state.is_paused,
        sleep_level=state.sleep_level,
        weights=[
            pb.Weights(
                model=each.model,
                version=each.version,
                updates=each.updates,
                nbytes=each.nbytes,
                is_dropped=each.is_dropped,
            )
            for each in state.weights
        ],
        freed_bytes=state.freed_bytes,
        waiting=state.waiting,
    )

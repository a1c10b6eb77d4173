"""Answers and problems are written as trainers' clients read them; pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
from starlette.responses import Response

from mell_jax.engine.admin import ServingState, WeightsInfo, WeightsUpdated
from mell_jax.scheduler.placement.operator import NotPossibleError
from mell_jax.serving.chat.unknown import passed_over
from mell_jax.serving.http.errors import Failure, failure_of, failure_response
from mell_jax.serving.problem import UnsupportedError

Json = Mapping[str, object]
_STATUS: dict[type[Exception], int] = {UnsupportedError: 501, NotPossibleError: 409}


def answer_of(told: Json, *, unknown: Sequence[str] = ()) -> Response:
    """Returns an answer that also names fields which were passed over."""
    response = Response(msgspec.json.encode(told), media_type="application/json")
    response.raw_headers += passed_over(unknown)
    return response


def refusal(error: Exception) -> Response:
    """Returns the answer to what cannot be done, in OpenAI's form and in SGLang's."""
    failure = failure_of(error)
    if (status := _STATUS.get(type(error))) is not None:
        failure = replace(failure, status=status)
    return failure_response(failure, body=_body(failure))


def state_json(state: ServingState) -> Json:
    """Writes whether the engine runs, and with which weights."""
    return {
        "is_paused": state.is_paused,
        "is_sleeping": state.sleep_level > 0,
        "sleep_level": state.sleep_level,
        "freed_bytes": state.freed_bytes,
        "waiting": state.waiting,
        **weights_json(state),
    }


def done_json(status: str, state: ServingState) -> Json:
    """Writes that something was done, and how things are since."""
    return {"success": True, "status": status, "message": status, **state_json(state)}


def weights_json(state: ServingState) -> Json:
    """Writes the version of the first model's weights, and of all models'."""
    return {
        "weight_version": state.weights[0].version,
        "models": [_info_json(each) for each in state.weights],
    }


def updated_json(updated: WeightsUpdated) -> Json:
    """Writes what an update came to, in vLLM's words and in SGLang's."""
    return {
        "success": True,
        "message": "Weights updated",
        "weight_version": updated.version,
        "model": updated.model,
        "nbytes": updated.nbytes,
        "restarted": updated.restarted,
        "aborted": updated.aborted,
        "num_paused_requests": 0,
    }


def _info_json(info: WeightsInfo) -> Json:
    return {
        "model": info.model,
        "weight_version": info.version,
        "updates": info.updates,
        "nbytes": info.nbytes,
        "is_dropped": info.is_dropped,
    }


def _body(failure: Failure) -> bytes:
    is_ours = failure.status >= 500 and failure.status != 501
    return msgspec.json.encode(
        {
            "success": False,
            "message": failure.message,
            "error": {
                "message": failure.message,
                "type": "server_error" if is_ours else "invalid_request_error",
                "param": failure.field or None,
                "code": failure.code,
            },
        }
    )

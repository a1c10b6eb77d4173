"""Trainers pause the engine, put it to sleep, and end its requests by these calls."""

from collections.abc import Mapping
from typing import cast

from mell_jax.engine.admin import (
    AbortOpen,
    AskServing,
    Keeps,
    Pause,
    PauseMode,
    RequestsAborted,
    Resume,
    ServingState,
    Sleep,
    SleepLevel,
    Wake,
)
from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.admin.controls import AbortIds, checked
from mell_jax.serving.admin.trainer import fields
from mell_jax.serving.admin.trainer.answers import Json, done_json, state_json
from mell_jax.serving.admin.trainer.call import GET, Ask, Call
from mell_jax.serving.admin.trainer.wire import (
    AbortBody,
    EmptyBody,
    PauseBody,
    SleepBody,
    TagsBody,
)

_MODES: Mapping[str, PauseMode] = {
    **{"abort": "abort", "wait": "wait", "keep": "keep"},
    "in_place": "keep",  # SGLang's word
}
_TAGS = ("weights", "kv_cache")


async def _pause(asked: PauseBody, ask: Ask) -> Json:
    mode = asked.mode or ("wait" if asked.wait_for_inflight_requests else "abort")
    return done_json("paused", await _state(ask, Pause(mode=_mode_of(mode))))


async def _resume(asked: EmptyBody, ask: Ask) -> Json:
    return done_json("resumed", await _state(ask, Resume()))


async def _look(asked: EmptyBody, ask: Ask) -> Json:
    return state_json(await _state(ask, AskServing()))


async def _sleep(asked: SleepBody, ask: Ask) -> Json:
    level = 1 if asked.level is None else asked.level
    sleep = checked(
        lambda: Sleep(
            level=cast(SleepLevel, level),
            keeps=cast(Keeps, asked.keeps or "host"),
            mode=_mode_of(asked.mode or "abort"),
        )
    )
    return done_json("sleeping", await _state(ask, sleep))


async def _release(asked: TagsBody, ask: Ask) -> Json:
    tags = _tags_of(asked)
    level: SleepLevel = 2 if "weights" in tags else 1
    return done_json("sleeping", await _state(ask, Sleep(level=level)))


async def _wake(asked: TagsBody, ask: Ask) -> Json:
    tags = _tags_of(asked)
    state = await _state(ask, AskServing())
    is_update_due = any(each.is_dropped for each in state.weights)
    if is_update_due and tags == {"weights"}:
        return done_json("sleeping", state)  # an update brings them
    return done_json("awake", await _state(ask, Wake()))


async def _abort(asked: AbortBody, ask: Ask) -> Json:
    if asked.abort_all and (asked.request_ids or asked.rid):
        raise InvalidRequestError("abort_all", "is set beside ids: leave one out")
    ids = (*(asked.request_ids or ()), *((asked.rid,) if asked.rid else ()))
    if ids:
        await ask(AbortIds(request_ids=ids))
    if ids or (asked.request_ids is not None and not asked.abort_all):
        return {"success": True, "status": "aborted", "aborted": len(ids)}
    if asked.abort_all is False:
        raise InvalidRequestError("rid", "is required where abort_all is false")
    if asked.rid is not None and not asked.abort_all:
        raise InvalidRequestError("rid", "is empty: name one, or set abort_all")
    aborted = await ask(AbortOpen())
    assert isinstance(aborted, RequestsAborted), aborted
    return {"success": True, "status": "aborted", "aborted": aborted.aborted}


async def _state(
    ask: Ask, command: AskServing | Pause | Resume | Sleep | Wake
) -> ServingState:
    state = await ask(command)
    assert isinstance(state, ServingState), state
    return state


def _mode_of(mode: str) -> PauseMode:
    if mode == "retract":
        raise InvalidRequestError(
            "mode",
            "may not be retract: pause with in_place, and give the new weights with "
            "open_requests=restart, which computes all again",
        )
    if mode not in _MODES:
        raise InvalidRequestError(
            "mode", f"must be one of {', '.join(_MODES)}, got {mode!r:.100}"
        )
    return _MODES[mode]


def _tags_of(asked: TagsBody) -> set[str]:
    """Returns the parts of the memory that are meant; all where none is named."""
    tags = set(asked.tags or _TAGS)
    if unknown := tags - set(_TAGS):
        raise InvalidRequestError(
            "tags", f"may be {', '.join(_TAGS)}, got {sorted(unknown)!r:.100}"
        )
    return tags


PAUSE_CALLS = (
    Call(
        paths=("/pause", "/pause_generation"),
        body=PauseBody,
        fields=fields.PAUSE,
        do=_pause,
    ),
    Call(
        paths=("/resume", "/continue_generation"),
        body=EmptyBody,
        fields=fields.EMPTY,
        do=_resume,
    ),
    Call(
        paths=("/is_paused", "/is_sleeping"),
        body=EmptyBody,
        fields=fields.EMPTY,
        do=_look,
        methods=GET,
    ),
    Call(paths=("/sleep",), body=SleepBody, fields=fields.SLEEP, do=_sleep),
    Call(
        paths=("/release_memory_occupation",),
        body=TagsBody,
        fields=fields.TAGS,
        do=_release,
    ),
    Call(
        paths=("/wake_up", "/resume_memory_occupation"),
        body=TagsBody,
        fields=fields.TAGS,
        do=_wake,
    ),
    Call(
        paths=("/abort_requests", "/abort_request"),
        body=AbortBody,
        fields=fields.ABORT,
        do=_abort,
    ),
)

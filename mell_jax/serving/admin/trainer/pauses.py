"""Trainers pause the engine, put it to sleep, and end its requests by these calls."""

from typing import cast, final

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

_MODES = {"abort": "abort", "wait": "wait", "keep": "keep", "in_place": "keep"}
_TAGS = ("weights", "kv_cache")


@final
class PauseCalls:
    """Pauses, resumes, puts to sleep, wakes and aborts."""

    def __init__(self, ask: Ask) -> None:
        """Takes what has the engine do something."""
        self._ask = ask

    def calls(self) -> tuple[Call, ...]:
        """Returns all of them."""
        return (
            Call(
                paths=("/pause", "/pause_generation"),
                body=PauseBody,
                fields=fields.PAUSE,
                do=self._pause,
            ),
            Call(
                paths=("/resume", "/continue_generation"),
                body=EmptyBody,
                fields=fields.EMPTY,
                do=self._resume,
            ),
            Call(
                paths=("/is_paused", "/is_sleeping"),
                body=EmptyBody,
                fields=fields.EMPTY,
                do=self._look,
                methods=GET,
            ),
            Call(
                paths=("/sleep",), body=SleepBody, fields=fields.SLEEP, do=self._sleep
            ),
            Call(
                paths=("/release_memory_occupation",),
                body=TagsBody,
                fields=fields.TAGS,
                do=self._release,
            ),
            Call(
                paths=("/wake_up", "/resume_memory_occupation"),
                body=TagsBody,
                fields=fields.TAGS,
                do=self._wake,
            ),
            Call(
                paths=("/abort_requests", "/abort_request"),
                body=AbortBody,
                fields=fields.ABORT,
                do=self._abort,
            ),
        )

    async def _pause(self, asked: PauseBody) -> Json:
        mode = asked.mode or ("wait" if asked.wait_for_inflight_requests else "abort")
        return done_json("paused", await self._state(_pause_of(mode)))

    async def _resume(self, asked: EmptyBody) -> Json:
        return done_json("resumed", await self._state(Resume()))

    async def _look(self, asked: EmptyBody) -> Json:
        return state_json(await self._state(AskServing()))

    async def _sleep(self, asked: SleepBody) -> Json:
        level = 1 if asked.level is None else asked.level
        sleep = checked(
            lambda: Sleep(
                level=cast(SleepLevel, level), keeps=cast(Keeps, asked.keeps or "host")
            )
        )
        pause = _pause_of(asked.mode or "abort")
        if pause.mode == "abort":
            await self._ask(AbortOpen())
        elif pause.mode == "wait":
            return await self._sleep_after(pause, sleep)
        return done_json("sleeping", await self._state(sleep))

    async def _sleep_after(self, pause: Pause, sleep: Sleep) -> Json:
        """Sleeps once open requests have ended; the pause ends with the sleep."""
        before = await self._state(AskServing())
        await self._state(pause)
        state = await self._state(sleep)
        if not before.is_paused:
            state = await self._state(Resume())
        return done_json("sleeping", state)

    async def _release(self, asked: TagsBody) -> Json:
        tags = _tags_of(asked)
        level: SleepLevel = 2 if "weights" in tags else 1
        return done_json("sleeping", await self._state(Sleep(level=level)))

    async def _wake(self, asked: TagsBody) -> Json:
        tags = _tags_of(asked)
        state = await self._state(AskServing())
        is_update_due = any(each.is_dropped for each in state.weights)
        if is_update_due and tags == {"weights"}:
            return done_json("sleeping", state)  # an update brings them
        return done_json("awake", await self._state(Wake()))

    async def _abort(self, asked: AbortBody) -> Json:
        if asked.abort_all and (asked.request_ids or asked.rid):
            raise InvalidRequestError("abort_all", "is set beside ids: leave one out")
        ids = (*(asked.request_ids or ()), *((asked.rid,) if asked.rid else ()))
        if ids:
            await self._ask(AbortIds(request_ids=ids))
            return {"success": True, "status": "aborted", "aborted": len(ids)}
        if asked.abort_all is False:
            raise InvalidRequestError("rid", "is required where abort_all is false")
        aborted = await self._ask(AbortOpen())
        assert isinstance(aborted, RequestsAborted), aborted
        return {"success": True, "status": "aborted", "aborted": aborted.aborted}

    async def _state(
        self, command: AskServing | Pause | Resume | Sleep | Wake
    ) -> ServingState:
        state = await self._ask(command)
        assert isinstance(state, ServingState), state
        return state


def _pause_of(mode: str) -> Pause:
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
    return Pause(mode=cast(PauseMode, _MODES[mode]))


def _tags_of(asked: TagsBody) -> set[str]:
    """Returns the parts of the memory that are meant; all where none is named."""
    tags = set(asked.tags or _TAGS)
    if unknown := tags - set(_TAGS):
        raise InvalidRequestError(
            "tags", f"may be {', '.join(_TAGS)}, got {sorted(unknown)!r:.100}"
        )
    return tags

"""Trainers bring new weights and ask which are served by these calls."""

from mell_jax.engine.admin import (
    AskServing,
    NameWeights,
    PrefixCacheReset,
    ResetPrefixCache,
    ServingState,
    WeightsUpdated,
)
from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.admin.controls import checked
from mell_jax.serving.admin.trainer import fields
from mell_jax.serving.admin.trainer.answers import (
    Json,
    done_json,
    updated_json,
    weights_json,
)
from mell_jax.serving.admin.trainer.call import EITHER, GET, Ask, Call
from mell_jax.serving.admin.trainer.wire import (
    EmptyBody,
    ModelBody,
    NameBody,
    UpdateBody,
    WorldBody,
    update_of,
    version_of,
)


async def _update(asked: UpdateBody, ask: Ask) -> Json:
    updated = await ask(update_of(asked))
    assert isinstance(updated, WeightsUpdated), updated
    return updated_json(updated)


async def _begin(asked: EmptyBody, ask: Ask) -> Json:
    """Says yes: each update is whole, and nothing is to be made ready for it."""
    return done_json("started", await _state(ask, AskServing()))


async def _finish(asked: NameBody, ask: Ask) -> Json:
    """Names the weights if a name is given: they are in use already."""
    if version_of(asked) is None:
        return done_json("finished", await _state(ask, AskServing()))
    return await _name(asked, ask)


async def _name(asked: NameBody, ask: Ask) -> Json:
    version = version_of(asked)
    if version is None:
        raise InvalidRequestError("new_version", "is required")
    name = checked(lambda: NameWeights(version=version, model=asked.model))
    state = await _state(ask, name)
    return {**done_json("named", state), "new_version": version}


async def _look(asked: EmptyBody, ask: Ask) -> Json:
    return weights_json(await _state(ask, AskServing()))


async def _reset(asked: ModelBody, ask: Ask) -> Json:
    reset = await ask(ResetPrefixCache(model=asked.model))
    assert isinstance(reset, PrefixCacheReset), reset
    return {"success": True, "pages": reset.pages}


async def _state(ask: Ask, command: AskServing | NameWeights) -> ServingState:
    state = await ask(command)
    assert isinstance(state, ServingState), state
    return state


WEIGHTS_CALLS = (
    Call(
        paths=("/update_weights", "/update_weights_from_disk"),
        body=UpdateBody,
        fields=fields.UPDATE,
        do=_update,
    ),
    Call(
        paths=("/start_weight_update",),
        body=EmptyBody,
        fields=fields.START,
        do=_begin,
    ),
    Call(
        paths=("/finish_weight_update",),
        body=NameBody,
        fields=fields.NAME,
        do=_finish,
    ),
    Call(
        paths=("/update_weight_version",),
        body=NameBody,
        fields=fields.NAME,
        do=_name,
    ),
    Call(
        paths=("/weight_info", "/weight_version", "/get_weight_version"),
        body=EmptyBody,
        fields=fields.EMPTY,
        do=_look,
        methods=GET,
    ),
    Call(
        paths=("/reset_prefix_cache", "/flush_cache"),
        body=ModelBody,
        fields=fields.RESET,
        do=_reset,
        methods=EITHER,
    ),
)


def world_call(*, devices: int, instances: int) -> Call:
    """Returns the call that asks how many devices there are."""

    async def tell(asked: WorldBody, ask: Ask) -> Json:
        has_all = asked.include_dp is None or bool(asked.include_dp)
        return {"world_size": devices if has_all else devices // instances}

    return Call(
        paths=("/get_world_size",),
        body=WorldBody,
        fields=fields.WORLD,
        do=tell,
        methods=GET,
    )

"""Trainers bring new weights and ask which are served by these calls."""

from typing import final

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


@final
class WeightsCalls:
    """Updates, names and tells of weights, and forgets pages of prompts."""

    def __init__(self, ask: Ask, *, devices: int, instances: int) -> None:
        """Takes what has the engine do something, and how many devices it has."""
        self._ask = ask
        self._devices = devices
        self._instances = instances

    def calls(self) -> tuple[Call, ...]:
        """Returns all of them."""
        return (
            Call(
                paths=("/update_weights", "/update_weights_from_disk"),
                body=UpdateBody,
                fields=fields.UPDATE,
                do=self._update,
            ),
            Call(
                paths=("/start_weight_update",),
                body=EmptyBody,
                fields=fields.START,
                do=self._begin,
            ),
            Call(
                paths=("/finish_weight_update",),
                body=NameBody,
                fields=fields.NAME,
                do=self._finish,
            ),
            Call(
                paths=("/update_weight_version",),
                body=NameBody,
                fields=fields.NAME,
                do=self._name,
            ),
            Call(
                paths=("/weight_info", "/weight_version", "/get_weight_version"),
                body=EmptyBody,
                fields=fields.EMPTY,
                do=self._look,
                methods=GET,
            ),
            Call(
                paths=("/reset_prefix_cache", "/flush_cache"),
                body=ModelBody,
                fields=fields.RESET,
                do=self._reset,
                methods=EITHER,
            ),
            Call(
                paths=("/get_world_size",),
                body=WorldBody,
                fields=fields.WORLD,
                do=self._world,
                methods=GET,
            ),
        )

    async def _update(self, asked: UpdateBody) -> Json:
        updated = await self._ask(update_of(asked))
        assert isinstance(updated, WeightsUpdated), updated
        return updated_json(updated)

    async def _begin(self, asked: EmptyBody) -> Json:
        """Says yes: each update is whole, and nothing is to be made ready for it."""
        return done_json("started", await self._state(AskServing()))

    async def _finish(self, asked: NameBody) -> Json:
        """Names the weights if a name is given: they are in use already."""
        if version_of(asked) is None:
            return done_json("finished", await self._state(AskServing()))
        return await self._name(asked)

    async def _name(self, asked: NameBody) -> Json:
        version = version_of(asked)
        if version is None:
            raise InvalidRequestError("new_version", "is required")
        name = checked(lambda: NameWeights(version=version, model=asked.model))
        state = await self._state(name)
        return {**done_json("named", state), "new_version": version}

    async def _look(self, asked: EmptyBody) -> Json:
        return weights_json(await self._state(AskServing()))

    async def _reset(self, asked: ModelBody) -> Json:
        reset = await self._ask(ResetPrefixCache(model=asked.model))
        assert isinstance(reset, PrefixCacheReset), reset
        return {"success": True, "pages": reset.pages}

    async def _state(self, command: AskServing | NameWeights) -> ServingState:
        state = await self._ask(command)
        assert isinstance(state, ServingState), state
        return state

    async def _world(self, asked: WorldBody) -> Json:
        has_all = asked.include_dp is None or bool(asked.include_dp)
        size = self._devices if has_all else self._devices // self._instances
        return {"world_size": size}

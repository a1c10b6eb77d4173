"""The door answers every call of trainers, and names what to use for the others."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import NoReturn, final

from starlette.requests import Request
from starlette.responses import Response

from mell_jax.engine.admin import Answer
from mell_jax.frontend import Caller
from mell_jax.serving.admin.controls import (
    Asked,
    Controls,
    not_answered,
)
from mell_jax.serving.admin.trainer.answers import answer_of, refusal
from mell_jax.serving.admin.trainer.call import EITHER, Call
from mell_jax.serving.admin.trainer.pauses import PAUSE_CALLS
from mell_jax.serving.admin.trainer.weights import WEIGHTS_CALLS, world_call
from mell_jax.serving.admin.trainer.wire import body_of
from mell_jax.serving.asker import Asker
from mell_jax.serving.chat.body import read_body
from mell_jax.serving.http import HttpRoute
from mell_jax.serving.http.body import Bodies
from mell_jax.serving.problem import UnsupportedError

_BY_PATH = "write the weights as a checkpoint and post its path to /update_weights"
_NOT_HERE: Mapping[str, str] = {
    "/init_weight_transfer_engine": f"no NCCL or IPC group can be joined; {_BY_PATH}",
    "/init_weights_update_group": f"no NCCL group can be joined; {_BY_PATH}",
    "/destroy_weights_update_group": f"no NCCL group can be joined; {_BY_PATH}",
    "/start_draft_weight_update": f"there is no draft model; {_BY_PATH}",
    "/update_weights_from_tensor": f"no tensors are taken over HTTP; {_BY_PATH}",
    "/update_weights_from_distributed": f"no NCCL group can be joined; {_BY_PATH}",
    "/update_weights_from_ipc": f"no handles of CUDA are taken; {_BY_PATH}",
    "/get_weights_by_name": "weights do not leave the server; read their checkpoint",
    "/weight_checker": "weights are checked while they are loaded; GET /weight_info "
    "tells which are served",
    "/weights_checker": "weights are checked while they are loaded; GET /weight_info "
    "tells which are served",
    "/collective_rpc": "functions are not called by name; mell.v1.Admin and these "
    "routes have all that can be done",
}


@final
class TrainerDoor:
    """Answers trainers out of an engine's controls."""

    def __init__(self, controls: Controls) -> None:
        """Takes the controls, which everything goes through."""
        self._controls = controls
        self._bodies = Bodies()

    def routes(self) -> list[HttpRoute]:
        """Returns all routes; each wants the right "admin"."""
        controls = self._controls
        world = world_call(devices=controls.devices, instances=controls.instances)
        calls = (*PAUSE_CALLS, *WEIGHTS_CALLS, world)
        known = [self._route(path, call) for call in calls for path in call.paths]
        return [*known, *(_route_not_here(path) for path in _NOT_HERE)]

    def _route(self, path: str, call: Call) -> HttpRoute:
        return HttpRoute(
            path=path,
            endpoint=partial(self._answer, call),
            methods=call.methods,
            right="admin",
            operation=path.removeprefix("/"),
            refuse=refusal,
        )

    async def _answer(self, call: Call, request: Request, asker: Asker) -> Response:
        body = body_of(request.query_params, await self._bodies.read(request))
        asked, unknown = read_body(body, call.body, fields=call.fields)
        ask = partial(self._ask, caller=asker.caller)
        return answer_of(await call.do(asked, ask), unknown=unknown)

    async def _ask(self, asked: Asked, *, caller: Caller) -> Answer:
        """Has something done and waits for it, as long as it may take.

        Raises:
          NotAnsweredError: the engine does not answer.
        """
        answer = self._controls.begin(asked, caller=caller)
        wait_s = self._controls.patience_s(asked)
        try:
            async with asyncio.timeout(wait_s):
                return await asyncio.wrap_future(answer)
        except TimeoutError as error:
            assert wait_s is not None, "without a bound nothing times out"
            raise not_answered(answer, waited_s=wait_s) from error


def _route_not_here(path: str) -> HttpRoute:
    async def refuse(request: Request, asker: Asker) -> NoReturn:
        raise UnsupportedError(f"{path} is not served here: {_NOT_HERE[path]}")

    return HttpRoute(
        path=path,
        endpoint=refuse,
        methods=EITHER,
        right="admin",
        operation=path.removeprefix("/"),
        refuse=refusal,
    )

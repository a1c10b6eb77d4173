"""Gives a served model other weights, from whatever thread asks."""

import threading
from typing import Any, TypeVar, final

import jax
import jax.numpy as jnp
from flax import nnx

from mell_jax.engine.admin import (
    Answer,
    AskServing,
    Command,
    OpenRequests,
    ServingState,
    UpdateWeights,
    WeightsUpdated,
)
from mell_jax.engine.thread import EngineThread
from mell_jax.engine.weights.match import Mapped
from mell_jax.engine.weights.plan import WeightsPlan
from mell_jax.engine.weights.update import make_weights
from mell_jax.models.servable import ServableModel

A = TypeVar("A", bound=Answer)


@final
class WeightsUpdater:
    """It updates one model of an engine; updates take turns.

    Args:
      engine: that serves the model.
      model: its name.
      plan: how its weights are made.
    """

    def __init__(self, engine: EngineThread, *, model: str, plan: WeightsPlan) -> None:
        self._engine, self._model, self._plan = engine, model, plan
        self._turn = threading.Lock()

    def update(
        self,
        source: Any,
        *,
        version: str | None,
        open_requests: OpenRequests,
        mapping: Mapped | None,
        streamed: bool,
    ) -> WeightsUpdated:
        """Does what `LLM.update_weights` says."""
        with self._turn:
            weights = make_weights(
                self._plan, source, mapping=mapping, streamed=streamed
            )
            command = UpdateWeights(
                weights=weights,
                model=self._model,
                version=version,
                open_requests=open_requests,
            )
            return ask(self._engine, command, WeightsUpdated)

    @property
    def version(self) -> str:
        """Returns the version of the weights of the next step."""
        state = ask(self._engine, AskServing(), ServingState)
        return next(w.version for w in state.weights if w.model == self._model)


def shared_type(module: ServableModel) -> str:
    """Returns the type of all floating parameters of a module, as `dtype` of an engine.

    Raises:
      ValueError: they are of several types, or of one that is not served.
    """
    parameters = jax.tree.leaves(nnx.state(module, nnx.Param))
    found: set[str] = {
        one.dtype.name for one in parameters if jnp.issubdtype(one.dtype, jnp.floating)
    }
    if len(found) != 1 or not found <= {"float32", "bfloat16"}:
        raise ValueError(
            "share=True serves parameters as they are: they must all be float32 or all "
            f"bfloat16, got {', '.join(sorted(found))}; let them be copied with "
            "share=False"
        )
    return found.pop()


def ask(engine: EngineThread, command: Command, kind: type[A]) -> A:
    """Returns the engine's answer to a command, once it has it.

    An interrupt here takes the command back if the engine has not begun.

    Raises:
      RuntimeError: the engine has stopped, or cannot do it as things are.
    """
    answer = engine.ask(command)
    try:
        found = answer.result()
    except BaseException:
        answer.cancel()
        raise
    assert isinstance(found, kind), f"{command} was answered by {found}"
    return found

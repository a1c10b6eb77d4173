"""An updater gives a served model other weights, from whatever thread asks."""

import threading
from typing import Any, final

from mell_jax.engine.admin import (
    AskServing,
    OpenRequests,
    ServingState,
    UpdateWeights,
    WeightsUpdated,
)
from mell_jax.engine.ask import ask
from mell_jax.engine.thread import EngineThread
from mell_jax.engine.weights.match import Mapped
from mell_jax.engine.weights.plan import WeightsPlan
from mell_jax.engine.weights.update import make_weights


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

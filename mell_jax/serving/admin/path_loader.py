"""Weights of a path are loaded for whichever model they are meant."""

from collections.abc import Mapping
from pathlib import Path
from typing import final

from mell_jax.engine.admin import OpenRequests, WeightsUpdated
from mell_jax.engine.weights.updater import WeightsUpdater
from mell_jax.scheduler.placement.operator import UnknownTargetError


@final
class PathLoader:
    """A loader for all models of an engine; see `WeightsLoader`."""

    def __init__(self, updaters: Mapping[str, WeightsUpdater]) -> None:
        """Takes one for each model, by name, the first model first."""
        self._updaters = dict(updaters)

    def update(
        self,
        path: Path,
        *,
        version: str | None,
        open_requests: OpenRequests,
        model: str | None,
        streamed: bool,
    ) -> WeightsUpdated:
        """Loads, checks and swaps weights."""
        name = next(iter(self._updaters)) if model is None else model
        updater = self._updaters.get(name)
        if updater is None:
            raise UnknownTargetError(
                f"no model {name!r:.100} is served here; there is "
                f"{', '.join(self._updaters)}"
            )
        return updater.update(
            path,
            version=version,
            open_requests=open_requests,
            mapping=None,
            streamed=streamed,
        )

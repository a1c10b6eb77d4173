"""A front end finds its models by the names that clients use."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from mell_jax.engine.frames import EngineInfo
from mell_jax.frontend.errors import UnknownModelError
from mell_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontModel:
    """A front end knows this much of a model."""

    info: EngineInfo
    tokenizer: Tokenizer | None = None  # None: token ids in and out only


@final
class FrontModels:
    """Holds all models of a server; the first one answers requests that name none.

    Raises:
      ValueError: there is none, or two have the same name.
    """

    def __init__(self, models: Iterable[FrontModel]) -> None:
        found = list(models)
        self._by_name = {model.info.model_name: model for model in found}
        if not found or len(self._by_name) < len(found):
            names = [model.info.model_name for model in found]
            raise ValueError(
                f"a front end needs models of different names, got {names}"
            )
        self._default = found[0]

    @property
    def by_name(self) -> Mapping[str, FrontModel]:
        return self._by_name

    def find(self, name: str = "") -> FrontModel:
        """Returns the model of a name, or the default one.

        Raises:
          UnknownModelError: names what is served.
        """
        if not name:
            return self._default
        if name not in self._by_name:
            served = ", ".join(map(repr, self._by_name))
            raise UnknownModelError(
                f"no model {name!r:.100} is served here; there is {served}"
            )
        return self._by_name[name]

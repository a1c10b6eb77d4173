"""Several models share the device groups of a fleet."""

from collections.abc import Sequence
from dataclasses import dataclass

from mell_jax.engine.fleet.transport import Transport
from mell_jax.engine.frames import EngineInfo
from mell_jax.scheduler.ids import ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetModel:
    """This is what a fleet knows of one of its models."""

    info: EngineInfo
    transport: Transport  # of its pages

    @property
    def id(self) -> ModelId:
        """Returns its name in the placement machine."""
        return ModelId(self.info.model_name)


def shared_page_tokens(models: Sequence[FleetModel]) -> int:
    """Returns the tokens of a page, which all models of a fleet have in common.

    Raises:
      ValueError: there is no model, two have one name, or their pages differ.
    """
    names = [model.info.model_name for model in models]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a fleet needs models of different names, got {names}")
    sizes = {model.info.page_tokens for model in models}
    if len(sizes) > 1:
        raise ValueError(f"models of one fleet share a page size, got {sorted(sizes)}")
    return sizes.pop()

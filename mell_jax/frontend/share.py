"""What the front ends of a server tell each other, as values that can be added up."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from mell_jax.frontend.meter import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What has happened since the start; it only grows.

    Attributes:
        models: what readers saw, by name of the model.
        refused: requests turned away, by reason.
    """

    models: Mapping[str, Measured] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Counted") -> "Counted":
        models = dict(self.models)
        for name, measured in other.models.items():
            models[name] = models[name] + measured if name in models else measured
        return Counted(
            models=models, refused=dict(Counter(self.refused) + Counter(other.refused))
        )

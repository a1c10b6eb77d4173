"""Device groups may be of several kinds, each with limits and a price of its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mell_jax.scheduler.ids import KindId, ModelId
from mell_jax.scheduler.placement.model import ModelSpec

ONLY_KIND = KindId("only")
"""The kind of every device group in a fleet where all are alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """A kind says what a device group of it holds of each model, and what it costs.

    A model that is not in `models` does not run on this kind. The unit of money is the
    operator's, that of speed is any device's: only ratios are looked at.
    """

    models: Mapping[ModelId, ModelSpec]
    price_per_hour: float = 1.0
    speed: float = 1.0

    def __post_init__(self) -> None:
        for name in ("price_per_hour", "speed"):
            value = getattr(self, name)
            if not (0 < value < math.inf):
                raise ValueError(f"{name} must be > 0 and finite, got {value}")

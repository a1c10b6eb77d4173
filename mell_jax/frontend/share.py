"""Front ends of a server tell each other these values, which can be added up."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

from mell_jax.frontend.meter import ModelFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Counts what has happened since the start; it only grows.

    Attributes:
        models: what readers saw, by name of the model.
        refused: requests turned away, by reason.
    """

    models: Mapping[str, ModelFigures] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Counted") -> "Counted":
        models = dict(self.models)
        for name, measured in other.models.items():
            models[name] = models[name] + measured if name in models else measured
        return Counted(
            models=models, refused=dict(Counter(self.refused) + Counter(other.refused))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Counts what is inside, for one tenant or for all together.

    Attributes:
        open: samples.
        queued: samples without a token.
        queued_tokens: prompt tokens of these.

    Raises:
        ValueError: a number is below 0.
    """

    open: int = 0
    queued: int = 0
    queued_tokens: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            if not (getattr(self, each.name) >= 0):
                raise ValueError(f"{each.name} must not be below 0, got {self}")

    def __add__(self, other: "Use") -> "Use":
        return Use(
            open=self.open + other.open,
            queued=self.queued + other.queued,
            queued_tokens=self.queued_tokens + other.queued_tokens,
        )


NO_USE = Use()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Counts what is inside now; a front end that has died holds nothing.

    Attributes:
        requests: that are open.
        everyone: all tenants together.
        tenants: those with something open, where tenants have bounds.
    """

    requests: int = 0
    everyone: Use = NO_USE
    tenants: Mapping[str, Use] = field(default_factory=dict)

    def __add__(self, other: "Held") -> "Held":
        tenants = dict(self.tenants)
        for name, use in other.tenants.items():
            tenants[name] = tenants.get(name, NO_USE) + use
        return Held(
            requests=self.requests + other.requests,
            everyone=self.everyone + other.everyone,
            tenants=tenants,
        )

    def only(self, tenants: Iterable[str]) -> "Held":
        """Returns a copy without other tenants, which has each of `tenants`."""
        wanted = {name: self.tenants.get(name, NO_USE) for name in tenants}
        return replace(self, tenants=wanted)

    def updated(self, part: "Held") -> "Held":
        """Returns a copy updated with what `only` has left of a later one."""
        return replace(part, tenants={**self.tenants, **part.tenants})


NOTHING_HELD = Held()

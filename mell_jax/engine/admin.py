"""Commands of an operator and their answers are the plain values defined here.

A command is carried out between two steps, on the engine's thread; `EngineThread.ask`
takes it there. Numbers of requests and devices are those of `FleetView`.
"""

from dataclasses import dataclass

from mell_jax.engine.fleet_view import FleetView, GroupState

MAX_RESULTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPlacements:
    """Asks where requests are; those with most pages come first."""

    model: str | None = None  # only of this one
    device: int | None = None  # only there, or on their way there
    max_results: int = 1000

    def __post_init__(self) -> None:
        if not (1 <= self.max_results <= MAX_RESULTS):
            raise ValueError(
                f"max_results must be from 1 to {MAX_RESULTS}, got {self.max_results}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    """Moves a request to a device."""

    request: int
    device: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Moves everything off a device and gives it back."""

    device: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Undrain:
    """Uses a device again."""

    device: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Asks for everything as of now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy:
    """Places by another policy from now on; None leaves its own default."""

    policy: str
    look_s: float | None = None
    headroom: float | None = None


Command = ListPlacements | Migrate | Drain | Undrain | Snapshot | SetPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A placement says where a request is."""

    request: int
    handle: int
    model: str
    device: int | None  # None: it waits for a place
    target: int | None  # while it is moved there
    pages: int
    prompt_tokens: int
    is_paused: bool  # it cannot grow


@dataclass(frozen=True, slots=True, kw_only=True)
class Placements:
    """Answers `ListPlacements`."""

    placements: tuple[Placement, ...]
    total: int  # also those beyond `max_results`


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """Answers `Migrate`: it has begun, or was not needed."""

    source: int
    target: int
    is_moving: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """Answers `Drain` and `Undrain`."""

    state: GroupState
    requests_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Answers `Snapshot`."""

    policy: str
    view: FleetView


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """Answers `SetPolicy`."""

    policy: str
    before: str
    look_s: float


Answer = Placements | Migration | DeviceStatus | Picture | PolicyChange


class UnknownTargetError(LookupError):
    """A command names a request, a device or a model that is not there."""


class NotPossibleError(RuntimeError):
    """A command cannot be carried out as things are; the message says why."""


def pick(found: list[Placement], *, command: ListPlacements) -> Placements:
    """Returns the placements that a command asks for."""
    wanted = [
        each
        for each in found
        if command.model in (None, each.model)
        and command.device in (None, each.device, each.target)
    ]
    wanted.sort(key=lambda each: (-each.pages, each.request))
    return Placements(
        placements=tuple(wanted[: command.max_results]), total=len(wanted)
    )

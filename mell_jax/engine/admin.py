"""Commands of an operator and their answers are the plain values defined here.

A command is carried out between two steps, on the engine's thread; `EngineThread.ask`
takes it there. Numbers of requests and devices are those of `FleetView`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from mell_jax.engine.fleet_view import FleetView, GroupState
from mell_jax.engine.new_weights import NewWeights

MAX_RESULTS = 10_000
MAX_VERSION = 256  # characters
OpenRequests = Literal["keep", "restart", "abort"]
"""What becomes of open requests when weights change: they go on with the KV that they
have, are computed again, or end."""
PauseMode = Literal["keep", "wait", "abort"]
"""What becomes of open requests in a pause: they stand still, finish first, or end."""
SleepLevel = Literal[1, 2]
"""What an engine gives back that sleeps: its pools of KV pages, or its weights too."""
Keeps = Literal["host", "drop"]
"""Where weights are meanwhile: in pinned host memory, or nowhere."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateWeights:
    """Gives a model other weights, between two steps, on all devices.

    Weights of other shapes, types or places are refused, and nothing has changed then.
    Streamed ones that fail half way cost the device where they did; where there is no
    other, the engine sleeps until whole ones are given.
    """

    weights: NewWeights
    model: str | None = None  # None: the first one served
    version: str | None = None  # its name in answers; None: one more than before
    open_requests: OpenRequests = "keep"

    def __post_init__(self) -> None:
        _check_word("open_requests", self.open_requests, among=get_args(OpenRequests))
        if self.version is not None:
            check_version(self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameWeights:
    """Calls the weights of a model something else from the next step on."""

    version: str
    model: str | None = None  # None: the first one served

    def __post_init__(self) -> None:
        check_version(self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortOpen:
    """Ends all open requests; new ones are taken as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Starts no more steps. New requests wait in line until `Resume`.

    The answer comes when all is still: with "wait", after the last open request.
    """

    mode: PauseMode = "keep"

    def __post_init__(self) -> None:
        _check_word("mode", self.mode, among=get_args(PauseMode))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Ends a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """Gives memory back until `Wake`; the answer comes when that is done.

    New requests wait in line. Open ones wait as well and are computed again afterwards
    ("keep": their KV is given back with the pools), are finished first ("wait"; not in
    a sleep, where nothing is computed), or end ("abort"). Nothing becomes of them when
    it is refused. Weights that are dropped have to be given anew by `UpdateWeights`,
    before `Wake`.
    """

    level: SleepLevel = 1
    keeps: Keeps = "host"  # of weights, at level 2
    mode: PauseMode = "keep"  # of open requests

    def __post_init__(self) -> None:
        _check_word("level", self.level, among=get_args(SleepLevel))
        _check_word("keeps", self.keeps, among=get_args(Keeps))
        _check_word("mode", self.mode, among=get_args(PauseMode))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """Ends a sleep; a pause that was before it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPrefixCache:
    """Forgets all cached pages, so that nobody finds one that is there now."""

    model: str | None = None  # None: of all models


@dataclass(frozen=True, slots=True, kw_only=True)
class AskServing:
    """Asks whether the engine serves, and with which weights."""


Command = (
    ListPlacements
    | Migrate
    | Drain
    | Undrain
    | Snapshot
    | SetPolicy
    | UpdateWeights
    | NameWeights
    | AbortOpen
    | Pause
    | Resume
    | Sleep
    | Wake
    | ResetPrefixCache
    | AskServing
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsUpdated:
    """Answers `UpdateWeights`: steps from now on are of the new weights."""

    model: str
    version: str
    nbytes: int
    restarted: int  # open requests that are computed again
    aborted: int  # open requests that ended


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInfo:
    """The weights of a served model are these."""

    model: str
    version: str
    updates: int  # since the start
    nbytes: int  # of one instance's
    is_dropped: bool = False  # they have to be given anew


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingState:
    """Answers `Pause`, `Resume`, `Sleep`, `Wake`, `NameWeights` and `AskServing`."""

    is_paused: bool
    sleep_level: int  # 0: awake
    weights: tuple[WeightsInfo, ...]  # of every model, the first one first
    freed_bytes: int = 0  # that a sleep gave back, while it lasts
    waiting: int = 0  # requests in line for `Resume` or `Wake`


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCacheReset:
    """Answers `ResetPrefixCache`."""

    pages: int  # that can no longer be found


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsAborted:
    """Answers `AbortOpen`."""

    aborted: int | None  # sequences; None: nobody counted


Answer = (
    Placements
    | Migration
    | DeviceStatus
    | Picture
    | PolicyChange
    | WeightsUpdated
    | ServingState
    | PrefixCacheReset
    | RequestsAborted
)


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


def _check_word(field: str, value: object, *, among: tuple[object, ...]) -> None:
    if value not in among:
        raise ValueError(
            f"{field} must be one of {', '.join(map(str, among))}, got {value!r:.100}"
        )


def check_version(version: str) -> None:
    """Finds out whether weights may be called so.

    Raises:
      ValueError: the name is empty, too long, or cannot be shown.
    """
    if not isinstance(version, str):
        raise ValueError(f"version must be a text, got {version!r:.100}")
    if not (1 <= len(version) <= MAX_VERSION and version.isprintable()):
        raise ValueError(
            f"version must be 1 to {MAX_VERSION} printable characters, got "
            f"{len(version)}: {version!r:.100}"
        )

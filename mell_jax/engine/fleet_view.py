"""A fleet is seen from outside as these frozen values, by metrics and operators.

The engine's thread makes a `FleetView` now and then (`viewer`); whoever has it may keep
it, read it on any thread, or send it to another process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from mell_jax.engine.histogram import Histogram
from mell_jax.engine.stream_view import (
    GapsView,
    RequestsView,
    ShadowView,
    StreamView,
)
from mell_jax.scheduler.transfer import Mode

STEP_BOUNDS = (1.0, 2.0, 3.0, 4.0, 8.0, 16.0, 64.0)
GAP_BOUNDS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_NO_STEPS = Histogram.of((), bounds=STEP_BOUNDS)
_NO_SECONDS = Histogram.of((), bounds=GAP_BOUNDS_S)


class GroupState(Enum):
    """The state says what a device group does."""

    SERVING = "serving"
    OPENING = "opening"  # its weights and its pool are on their way
    PARKED = "parked"
    DRAINING = "draining"  # it serves what it has, and is given back then
    DRAINED = "drained"  # an operator has it
    LOST = "lost"  # it has failed and is not used again


class MoveStage(Enum):
    """The stage says how far a move is."""

    WAITING = "waiting"  # for its turn, or for room on a link
    RESERVING = "reserving"  # pages at its target
    COPYING = "copying"
    RELEASING = "releasing"  # the pages of the copy that is not needed


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """This shows what runs on a device group; all is zero where nothing is to serve.

    Pages are those of the books: `used_pages` of the requests that live there or are
    leaving, `reserved_pages` of those on their way there. A page that two requests
    share counts twice. Only `cached_pages` are what lies in the pool.
    """

    device: int
    host: str = ""  # its name; empty where a fleet has one process
    number: int = 0  # in its host
    epoch: int = 0  # of its host
    state: GroupState
    model: str = ""  # empty where nothing is to serve
    capacity_pages: int = 0
    used_pages: int = 0
    reserved_pages: int = 0
    cached_pages: int = 0  # of prefixes, that no request has now
    running: int = 0  # rows
    waiting: int = 0  # requests placed there, without a row yet
    paused: int = 0  # requests that cannot grow

    @property
    def name(self) -> str:
        """Returns what it is called: its number, after its host's name."""
        return f"{self.host}/{self.number}" if self.host else str(self.device)

    @property
    def free_pages(self) -> int:
        """Returns what the books have left."""
        return max(self.capacity_pages - self.used_pages - self.reserved_pages, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveView:
    """This shows a request on its way from one device to another."""

    request: int
    source: int
    target: int
    mode: str  # "kv" or "tokens"; empty while it waits
    stage: MoveStage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """This shows a model over all its instances."""

    name: str
    lower_bound: int  # devices that all its requests need at least, waiting ones too
    waiting: int  # requests that no instance has taken


class SleepState(Enum):
    """The state says what a sleep has given back; nothing while the engine is awake."""

    AWAKE = "awake"
    POOLS = "pools"  # of KV pages; weights are where they were, or in host memory
    DROPPED = "dropped"  # those, and weights that have to be given anew


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingView:
    """This shows whether an engine serves, and how often its weights have changed."""

    is_paused: bool = False
    sleep: SleepState = SleepState.AWAKE
    freed_bytes: int = 0  # that the sleep gave back
    updates: Mapping[str, int] = field(default_factory=dict)
    """By model, since the start."""


class MoveReason(Enum):
    """The reason says what a move was for."""

    URGENT = "another request could not grow"
    CONSOLIDATION = "fewer devices, or an order"


class MoveOutcome(Enum):
    """The outcome says how a move ended."""

    COMMITTED = "the target owns the request"
    ABORTED = "called off, or its request ended before"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveEnd:
    """Moves that are equal in these are counted together."""

    reason: MoveReason
    mode: Mode
    outcome: MoveOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStats:
    """The counts are those since the start.

    A gap is the time between the step that brought a moved request's last token of its
    source and the one that brought its first token of its target: 1 step without a
    move. A request that waited for pages before counts from when its row was settled.
    """

    begun: Mapping[Mode, int] = field(default_factory=dict)  # moves
    ended: Mapping[MoveEnd, int] = field(default_factory=dict)  # moves
    carried: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Moves that were committed, by the devices they went from and to."""
    deferred: int = 0  # moves put off to the next epoch
    violations: int = 0  # urgent moves beyond what a link or a target has
    sent_bytes: int = 0  # pages and tokens
    stages: int = 0  # chunks that these were sent in
    activations: int = 0
    activation_s: float = 0.0  # that they took together
    parkings: int = 0
    losses: int = 0  # of devices that failed
    replays: int = 0  # requests started again after the loss of a device
    pauses: int = 0  # a request could not grow at once
    preemptions: int = 0  # of requests that gave up their pages
    broken: int = 0  # streams that the engine had to end
    gap_steps: Histogram | None = field(
        default_factory=lambda: Histogram.of((), bounds=STEP_BOUNDS)
    )
    """None where steps of several hosts are not to be compared."""
    gap_s: Histogram = field(
        default_factory=lambda: Histogram.of((), bounds=GAP_BOUNDS_S)
    )

    def count(self, outcome: MoveOutcome) -> int:
        """Returns how many moves ended so, whatever they were for."""
        return sum(n for kind, n in self.ended.items() if kind.outcome is outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """A view shows a fleet as of a step not long ago."""

    instances: tuple[InstanceView, ...]  # every device group, by number
    models: tuple[ModelView, ...]
    moves: tuple[MoveView, ...]
    stats: FleetStats
    link_bytes_per_s: Mapping[tuple[int, int], float]  # from, to; as profiled
    prefill_tokens_per_s: Mapping[tuple[int, str], float]
    """By device and model: for moves, beside a full batch that decodes."""
    serving: ServingView | None = field(default_factory=ServingView)
    """None where nobody can pause it."""
    controller_age_s: float | None = None
    """So long ago its controller has told who is where; None where it has none."""
    number: int = 0  # of the view; each has another one than those before
    at_s: float = 0.0  # since the start of the fleet, as all times of streams
    device_s: float = 0.0  # that instances have been open so far, together
    requests: RequestsView = field(default_factory=RequestsView)
    streams: tuple[StreamView, ...] = ()  # a few, those that move before others
    gaps: GapsView = field(default_factory=GapsView)
    shadows: tuple[ShadowView, ...] = ()

    @property
    def names(self) -> dict[int, str]:
        """Returns what device groups are called."""
        return {instance.device: instance.name for instance in self.instances}

    @property
    def devices_in_use(self) -> int:
        """Returns how many device groups nobody else could use."""
        taken = (GroupState.SERVING, GroupState.OPENING, GroupState.DRAINING)
        return sum(instance.state in taken for instance in self.instances)

    @property
    def lower_bound(self) -> int:
        """Returns the devices that all requests need at least, however packed."""
        return sum(model.lower_bound for model in self.models)

"""A moment is all that the page shows of a fleet at one time, as one frozen value.

Its JSON is what `static/*.js` reads: fields by these names, columns for what there is
much of. Times are seconds since the start of the fleet.
"""

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A tile shows one device group; pages are those of the books."""

    device: int
    name: str = ""  # as in "left/0"; empty where its number says it
    state: str  # of `GroupState`
    model: str = ""
    capacity: int = 0
    used: int = 0
    reserved: int = 0
    cached: int = 0  # of the free ones, those that hold prefixes
    rows: int = 0
    paused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots:
    """Dots are the open requests as columns, request i in the i-th of each."""

    numbers: tuple[int, ...]  # the fleet's own
    devices: tuple[int, ...]  # -1 while it waits
    targets: tuple[int, ...]  # -1 while it does not move
    pages: tuple[int, ...]
    tokens: tuple[int, ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A lane shows the latest ticks of one stream; those of two moments overlap."""

    request: int
    device: int
    first: int  # ticks that came before the first one of these
    ticks: tuple[float, ...]
    moves: tuple[tuple[float, int, int], ...] = ()  # when, from, to
    is_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """Gaps between ticks are counted up to each bound, and above all of them."""

    bounds: tuple[float, ...]
    moved: tuple[int, ...]  # of streams that have moved
    after: tuple[int, ...]  # of these, those at moves
    unmoved: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A rival is another policy with the same requests."""

    policy: str
    devices: int
    device_s: float
    cost_s: float = 0.0
    is_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The totals are those since the start."""

    tokens: int
    moves: int
    called_off: int
    bytes: int
    broken: int  # streams
    device_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A moment is made of a `FleetView`, or of a simulated fleet."""

    number: int  # another one than the moments before
    at: float
    in_use: int
    bound: int
    waiting: int  # requests without a place
    tiles: tuple[Tile, ...]
    dots: Dots
    lanes: tuple[Lane, ...]
    gaps: Gaps
    rivals: tuple[Rival, ...]
    totals: Totals
    age: float | None = None
    """Of what is known of places, where a controller of several hosts tells it."""

    def json(self) -> bytes:
        """Returns it as the page reads it."""
        return msgspec.json.encode(self)

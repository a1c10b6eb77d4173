"""Requests and their tokens are seen from outside as these frozen values.

They are part of a `FleetView`, and are plain numbers throughout: what a client has
said, or calls its requests, is in none of them.
"""

from dataclasses import dataclass, field

from mell_jax.engine.histogram import Histogram

_PER_DECADE = 12
TICK_GAP_BOUNDS_S = tuple(
    round(1e-3 * 10 ** (step / _PER_DECADE), 6) for step in range(4 * _PER_DECADE + 1)
)
"""From a millisecond to ten seconds, each bound a fifth above the one before."""
_NO_GAPS = Histogram.of((), bounds=TICK_GAP_BOUNDS_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsView:
    """This shows the open requests as columns, request i in the i-th of each.

    Of more than `MOST_REQUESTS` (`viewer`) the oldest are shown.
    """

    numbers: tuple[int, ...] = ()  # the fleet's own
    devices: tuple[int, ...] = ()  # where it lives; -1 while it waits for a place
    targets: tuple[int, ...] = ()  # where it moves to; -1 while it does not
    pages: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()  # prompt and output; 0 while no row has it
    left_out: int = 0  # requests that are not shown


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveMark:
    """A stream has gone on elsewhere from `at_s` on."""

    at_s: float
    source: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamView:
    """This shows when the latest tokens of one stream came.

    Views overlap: a tick is in several of them, so that whoever misses one or two has
    them all, and finds by `first` which are new. Times are those of `FleetView.at_s`.
    """

    request: int
    device: int  # where it lives, or ended
    first: int  # output tokens that came before the first of `ticks_s`
    ticks_s: tuple[float, ...]
    moves: tuple[MoveMark, ...] = ()  # the latest few
    is_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GapsView:
    """This counts seconds between tokens of the streams that are followed.

    From its first move on a stream is a moved one: the gap at the move is in `moved`,
    beside all later ones.
    """

    moved: Histogram = field(default_factory=lambda: _NO_GAPS)
    after: Histogram = field(default_factory=lambda: _NO_GAPS)
    """Those at moves alone, each until the first token after one."""
    unmoved: Histogram = field(default_factory=lambda: _NO_GAPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowView:
    """This shows what another policy would do with the same requests."""

    policy: str
    devices: int  # that it would hold now
    device_s: float  # that it would have taken so far
    cost_s: float  # that it has taken of the engine's thread
    is_over: bool = False  # it has ended early: the rest is of then

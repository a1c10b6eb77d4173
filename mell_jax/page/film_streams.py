"""A film follows a few of its requests: a tick for each page that one has filled.

Requests take turns at the lanes; ticks are thinned out evenly when there are too many,
so that a film of any length is bounded.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import final

from mell_jax.engine.histogram import HistogramRecorder
from mell_jax.engine.stream_view import TICK_GAP_BOUNDS_S
from mell_jax.page.moment import Gaps, Lane
from mell_jax.scheduler.ids import DeviceGroupId, RequestId

LANES = 24
MOST_TICKS = 40_000  # of all lanes, over the whole film
_DIGITS = 2


class _Stream:
    """A stream was followed from its first place to its end."""

    __slots__ = ("device", "ended_s", "last_s", "moves", "request", "ticks")

    def __init__(self, request: RequestId, *, device: DeviceGroupId) -> None:
        self.request = request
        self.device = device  # at first
        self.ticks: list[float] = []
        self.moves: list[tuple[float, int, int]] = []
        self.last_s: float | None = None  # the latest tick, also one that is left out
        self.ended_s: float | None = None

    def lane(self, *, after_s: float, until_s: float) -> Lane | None:
        """Returns what is new in a span of time; None for nothing."""
        first = bisect_right(self.ticks, after_s)
        end = bisect_right(self.ticks, until_s)
        ended_s = self.ended_s
        ends = ended_s is not None and after_s < ended_s <= until_s
        moves = [move for move in self.moves if after_s < move[0] <= until_s]
        if first == end and not moves and not ends:
            return None
        before = [target for at_s, _, target in self.moves if at_s <= until_s]
        return Lane(
            request=self.request,
            device=before[-1] if before else self.device,
            first=first,
            ticks=tuple(round(at_s, _DIGITS) for at_s in self.ticks[first:end]),
            moves=tuple(moves),
            is_over=ends,
        )


@final
class FilmStreams:
    """The streams of one film are followed while it is taken.

    Args:
      page_tokens: tokens of a page.
    """

    def __init__(self, *, page_tokens: int) -> None:
        self._page_tokens = page_tokens
        self._stride = 1  # of so many ticks one is kept
        self._count = 0  # ticks that are kept
        self._open: dict[RequestId, _Stream] = {}
        self._all: list[_Stream] = []
        self._moved = HistogramRecorder(TICK_GAP_BOUNDS_S)
        self._unmoved = HistogramRecorder(TICK_GAP_BOUNDS_S)
        self._after = HistogramRecorder(TICK_GAP_BOUNDS_S)
        self._just_moved: set[RequestId] = set()

    @property
    def tick_tokens(self) -> int:
        """Returns how many tokens each tick stands for."""
        return self._stride * self._page_tokens

    def place(self, request: RequestId, device: DeviceGroupId) -> None:
        """A request has got its first place, or another one later on."""
        if request not in self._open and len(self._open) < LANES:
            self._open[request] = _Stream(request, device=device)
            self._all.append(self._open[request])

    def tick(self, request: RequestId, *, at_s: float, index: int) -> None:
        """A request has filled a page, its `index`-th."""
        stream = self._open.get(request)
        if stream is None:
            return
        if stream.last_s is not None and stream.last_s < at_s:
            self._count_gap(stream, (at_s - stream.last_s) / self._page_tokens)
        self._just_moved.discard(request)
        stream.last_s = at_s
        if index % self._stride == 0:
            stream.ticks.append(at_s)
            self._count += 1
        if self._count > MOST_TICKS:
            self._thin_out()

    def move(
        self,
        request: RequestId,
        *,
        at_s: float,
        source: DeviceGroupId,
        target: DeviceGroupId,
    ) -> None:
        """A request goes on elsewhere."""
        if request in self._open:
            mark = (round(at_s, _DIGITS), int(source), int(target))
            self._open[request].moves.append(mark)
            self._just_moved.add(request)

    def end(self, request: RequestId, *, at_s: float) -> None:
        """A request is over."""
        stream = self._open.pop(request, None)
        if stream is not None:
            stream.ended_s = at_s
            self._just_moved.discard(request)

    def gaps(self) -> Gaps:
        """Returns seconds between tokens so far, as means over pages."""
        return Gaps(
            bounds=TICK_GAP_BOUNDS_S,
            moved=self._moved.frozen().counts,
            after=self._after.frozen().counts,
            unmoved=self._unmoved.frozen().counts,
        )

    def lanes(self, times_s: list[float]) -> Iterator[tuple[Lane, ...]]:
        """Yields, for each of some times in order, what is new since the one before."""
        waiting = sorted(self._all, key=_start_s)
        live: list[_Stream] = []
        after_s, at = -1.0, 0
        for until_s in times_s:
            while at < len(waiting) and _start_s(waiting[at]) <= until_s:
                live.append(waiting[at])
                at += 1
            lanes = [each.lane(after_s=after_s, until_s=until_s) for each in live]
            yield tuple(lane for lane in lanes if lane is not None)
            live = [e for e in live if e.ended_s is None or e.ended_s > until_s]
            after_s = until_s

    def _count_gap(self, stream: _Stream, gap_s: float) -> None:
        (self._moved if stream.moves else self._unmoved).add(gap_s)
        if stream.request in self._just_moved:
            self._after.add(gap_s)

    def _thin_out(self) -> None:
        self._stride *= 2
        for stream in self._all:
            del stream.ticks[1::2]
        self._count = sum(len(stream.ticks) for stream in self._all)


def _start_s(stream: _Stream) -> float:
    """Returns when there is something to see of a stream for the first time."""
    firsts = [*stream.ticks[:1], *(move[0] for move in stream.moves[:1])]
    if stream.ended_s is not None:
        firsts.append(stream.ended_s)
    return min(firsts, default=float("inf"))

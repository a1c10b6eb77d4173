"""Ticks say when tokens of a few streams came, and their gaps whether they moved."""

import numpy as np
import pytest

from mell_jax.engine.fleet.ticks import (
    KEPT_S,
    LANES,
    MOST_TICKS,
    MOVED_LANES,
    TickRecorder,
)
from mell_jax.engine.frames import Handle, StepFrame, frame_of_tokens
from mell_jax.engine.stream_view import TICK_GAP_BOUNDS_S, MoveMark, StreamView
from mell_jax.scheduler.ids import RequestId


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Recorded:
    """A recorder whose time is told; it began at 0."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.recorder = TickRecorder(clock=self.clock)

    def follow(self, number: int, *, device: int = 0, tokens: int = 0) -> None:
        self.recorder.follow(
            RequestId(number), handle=Handle(number), device=device, tokens=tokens
        )

    def begin_move(self, number: int, *, tokens: int = 0) -> None:
        self.recorder.begin_move(
            RequestId(number), handle=Handle(number), device=0, tokens=tokens
        )

    def commit_move(self, number: int, *, at_s: float, target: int = 1) -> None:
        self.clock.now_s = at_s
        self.recorder.commit_move(Handle(number), source=0, target=target)

    def see(self, *numbers: int, at_s: float) -> None:
        self.clock.now_s = at_s
        self.recorder.see(
            StepFrame(
                handles=np.array(numbers, np.int64),
                tokens=np.zeros(len(numbers), np.int32),
            )
        )

    def views(self, *, at_s: float) -> dict[int, StreamView]:
        self.clock.now_s = at_s
        return {view.request: view for view in self.recorder.views()}


def bucket_of(gap_s: float) -> int:
    return next(i for i, bound in enumerate(TICK_GAP_BOUNDS_S) if gap_s <= bound)


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def test_a_stream_has_a_tick_for_each_token(recorded: Recorded) -> None:
    recorded.follow(7, device=2)
    recorded.follow(8)
    recorded.see(7, 8, at_s=1.0)
    recorded.see(7, 9, at_s=1.25)
    views = recorded.views(at_s=1.5)
    assert set(views) == {7, 8}
    assert views[7] == StreamView(request=7, device=2, first=0, ticks_s=(1.0, 1.25))
    assert views[8].ticks_s == (1.0,)


def test_views_overlap_and_say_which_ticks_came_before(recorded: Recorded) -> None:
    recorded.follow(7, tokens=40)
    for step in range(10):
        recorded.see(7, at_s=0.5 * step)
    early, late = recorded.views(at_s=2.0)[7], recorded.views(at_s=4.5)[7]
    assert (early.first, early.ticks_s[0]) == (40, 0.0)
    assert KEPT_S == 2.0
    assert (late.first, late.ticks_s) == (45, (2.5, 3.0, 3.5, 4.0, 4.5))


def test_a_view_is_bounded_however_fast_a_stream_is(recorded: Recorded) -> None:
    recorded.follow(7)
    for step in range(1000):
        recorded.see(7, at_s=0.001 * step)
    view = recorded.views(at_s=1.0)[7]
    assert (view.first, len(view.ticks_s)) == (1000 - MOST_TICKS, MOST_TICKS)


def test_a_move_is_marked_and_the_stream_goes_on_at_its_target(
    recorded: Recorded,
) -> None:
    recorded.follow(7)
    recorded.see(7, at_s=1.0)
    recorded.begin_move(7)
    recorded.commit_move(7, at_s=1.5, target=3)
    recorded.see(7, at_s=1.6)
    view = recorded.views(at_s=1.6)[7]
    assert view.moves == (MoveMark(at_s=1.5, source=0, target=3),)
    assert (view.device, view.ticks_s) == (3, (1.0, 1.6))


def test_gaps_are_of_streams_that_have_moved_or_not(recorded: Recorded) -> None:
    recorded.follow(7)
    recorded.follow(8)
    for at_s in (0.0, 0.02, 0.04):
        recorded.see(7, 8, at_s=at_s)
    recorded.begin_move(7)
    recorded.commit_move(7, at_s=0.05)
    recorded.see(7, at_s=0.1)
    recorded.see(7, 8, at_s=0.12)
    gaps = recorded.recorder.gaps()
    assert gaps.after.count == 1
    assert gaps.after.counts[bucket_of(0.06)] == 1
    assert gaps.moved.count == 2
    assert gaps.moved.counts[bucket_of(0.02)] == 1
    assert gaps.unmoved.count == 2 + 2 + 1
    assert gaps.unmoved.counts[bucket_of(0.08)] == 1
    assert gaps.unmoved.total == pytest.approx(0.04 + 0.12)


def test_a_move_that_is_called_off_makes_no_moved_stream(recorded: Recorded) -> None:
    recorded.follow(7)
    recorded.see(7, at_s=0.0)
    recorded.begin_move(7)
    recorded.see(7, at_s=0.5)
    assert recorded.recorder.gaps().moved.count == 0
    assert recorded.views(at_s=0.5)[7].moves == ()


def test_a_move_before_the_first_token_seen_has_no_gap(recorded: Recorded) -> None:
    recorded.begin_move(7, tokens=12)
    recorded.commit_move(7, at_s=1.0)
    recorded.see(7, at_s=1.1)
    recorded.see(7, at_s=1.2)
    gaps = recorded.recorder.gaps()
    assert (gaps.after.count, gaps.moved.count) == (0, 1)
    assert recorded.views(at_s=1.2)[7].first == 12


def test_tokens_that_a_grammar_forces_come_together_without_gaps(
    recorded: Recorded,
) -> None:
    recorded.follow(7)
    recorded.recorder.see(
        frame_of_tokens([(Handle(7), np.arange(4, dtype=np.int32))], finished=())
    )
    recorded.see(7, at_s=1.0)
    assert len(recorded.views(at_s=1.0)[7].ticks_s) == 5
    assert recorded.recorder.gaps().unmoved.count == 1


def test_a_stream_that_moves_gets_the_lane_of_one_that_stays(
    recorded: Recorded,
) -> None:
    for number in range(LANES + 5):
        recorded.follow(number)
    assert set(recorded.views(at_s=0.0)) == set(range(LANES))
    for number in range(100, 100 + LANES):
        recorded.begin_move(number)
    followed = set(recorded.views(at_s=0.0))
    assert len(followed) == LANES
    assert followed == {*range(MOVED_LANES, LANES), *range(100, 100 + MOVED_LANES)}


def test_a_stream_that_is_over_is_shown_a_moment_longer(recorded: Recorded) -> None:
    recorded.follow(7)
    recorded.see(7, at_s=1.0)
    recorded.recorder.end(Handle(7))
    recorded.recorder.end(Handle(8))
    assert recorded.views(at_s=2.5)[7].is_over
    assert recorded.views(at_s=3.5) == {}
    assert recorded.recorder.free_lanes == LANES


def test_one_that_starts_again_keeps_its_lane(recorded: Recorded) -> None:
    recorded.follow(7, device=1)
    recorded.see(7, at_s=0.5)
    recorded.follow(7, device=2, tokens=99)
    recorded.see(7, at_s=1.0)
    view = recorded.views(at_s=1.0)[7]
    assert (view.device, view.first, view.ticks_s) == (2, 0, (0.5, 1.0))

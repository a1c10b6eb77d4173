"""What a fleet shows of its requests: where they live, and when their tokens came."""

from collections import Counter

import numpy as np
import pytest

from mell_jax.engine.fleet import ticks, viewer
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.tally import FleetTally
from mell_jax.engine.fleet_view import FleetView, MoveOutcome
from mell_jax.engine.frames import Finished, FinishReason, Handle, frame_of_tokens
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.ids import RequestId
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import submit

SOME = SamplingParams(temperature=0.0, max_tokens=30)


def look(fleet: Fleet) -> FleetView:
    """As it is at this very moment."""
    view = fleet._viewer.view(now_s=0.0, anew=True)
    assert view is fleet._viewer.view(now_s=0.0, anew=False)
    return view


def submit_many(fleet: Fleet, count: int) -> None:
    for handle in range(count):
        submit(fleet, [handle + 1] * (handle * 5 + 1), handle=handle, params=SOME)


def told(fleet: Fleet, *, views: list[FleetView]) -> Counter[int]:
    """Runs a fleet dry; the tokens that its frames have for each handle."""
    tokens: Counter[int] = Counter()
    while fleet.has_work:
        frame = fleet.step()
        if frame is not None:
            tokens.update(frame.handles.tolist())
        views.append(look(fleet))
    return tokens


def test_ticks_of_all_views_together_are_the_tokens_of_the_frames() -> None:
    fleet = toy_fleet(config=FleetConfig(fault=Fault(move_every=3)))
    submit_many(fleet, 12)
    views: list[FleetView] = []
    tokens = told(fleet, views=views)
    assert tokens == dict.fromkeys(range(12), 30)
    seen: dict[int, list[float]] = {}
    for view in views:
        for stream in view.streams:
            ticks_s = seen.setdefault(stream.request, [])
            new = stream.first + len(stream.ticks_s) - len(ticks_s)
            assert 0 <= new <= len(stream.ticks_s), "a tick is missing"
            ticks_s += stream.ticks_s[len(stream.ticks_s) - new :]
            assert all(mark.source != mark.target for mark in stream.moves)
    assert {request: len(ticks_s) for request, ticks_s in seen.items()} == tokens
    assert all(np.all(np.diff(ticks_s) > 0) for ticks_s in seen.values())
    last = views[-1]
    assert last.stats.count(MoveOutcome.COMMITTED) > 12
    gaps = last.gaps
    assert gaps.moved.count + gaps.unmoved.count == 12 * 29
    assert 12 <= gaps.after.count <= last.stats.count(MoveOutcome.COMMITTED)
    assert gaps.moved.count > gaps.after.count


def test_requests_are_shown_where_they_live_with_their_tokens() -> None:
    fleet = toy_fleet()
    submit_many(fleet, 12)  # of which a device takes eight
    for _ in range(6):
        fleet.step()
    shown = look(fleet).requests
    ledger = fleet.machine.ledger.requests
    assert shown.numbers == tuple(range(12))
    assert set(shown.devices) == {0, 1}
    assert shown.targets == (-1,) * 12
    assert shown.pages == tuple(ledger[RequestId(n)].pages for n in range(12))
    prompts = [n * 5 + 1 for n in range(12)]
    assert all(t > p for t, p in zip(shown.tokens, prompts, strict=True))
    assert max(t - p for t, p in zip(shown.tokens, prompts, strict=True)) <= 6
    assert shown.left_out == 0


def test_a_request_that_moves_is_shown_with_its_target() -> None:
    fleet = toy_fleet(config=FleetConfig(fault=Fault(move_every=1)))
    submit_many(fleet, 12)
    seen: set[tuple[int, int]] = set()
    while fleet.has_work:
        fleet.step()
        view = look(fleet)
        pairs = zip(view.requests.devices, view.requests.targets, strict=True)
        moving = {(source, target) for source, target in pairs if target >= 0}
        assert moving == {(move.source, move.target) for move in view.moves}
        seen |= moving
    assert {(0, 1), (1, 0)} <= seen


def test_who_waits_for_a_place_has_no_device_and_no_tokens() -> None:
    fleet = toy_fleet(devices=1)
    submit_many(fleet, 10)
    fleet.step()
    shown = look(fleet).requests
    assert shown.devices == (0,) * 8 + (-1,) * 2
    assert shown.tokens[8:] == (0, 0)


def test_of_too_many_requests_the_oldest_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(viewer, "MOST_REQUESTS", 5)
    fleet = toy_fleet()
    submit_many(fleet, 12)
    shown = look(fleet).requests
    assert (shown.numbers, shown.left_out) == ((0, 1, 2, 3, 4), 7)


def test_a_lane_that_becomes_free_goes_to_a_stream_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ticks, "LANES", 2)
    fleet = toy_fleet()
    short = SamplingParams(temperature=0.0, max_tokens=5)
    for handle, params in enumerate((short, short, SOME, SOME, SOME)):
        submit(fleet, [1, 2, 3], handle=handle, params=params)
    fleet.step()
    assert {stream.request for stream in look(fleet).streams} == {0, 1}
    while len(fleet.conductor.requests) > 3:
        fleet.step()
    fleet.step()
    first = {stream.request: stream.first for stream in look(fleet).streams}
    assert {2, 3} <= set(first) and 4 not in first
    assert 4 <= first[2] <= 7, "the tokens that came before it had a lane"


def test_views_have_numbers_and_count_device_seconds() -> None:
    fleet = toy_fleet()
    assert look(fleet).device_s == 0.0
    submit_many(fleet, 3)
    fleet.step()
    before, start_s = look(fleet), fleet.conductor.now_s
    for _ in range(4):
        fleet.step()
    after = look(fleet)
    assert after.number > before.number
    assert after.at_s > before.at_s
    passed_s = fleet.conductor.now_s - start_s
    assert after.device_s - before.device_s == passed_s > 0.9  # of one device


def test_a_stream_is_broken_if_it_was_not_the_request_s_own_fault() -> None:
    tally = FleetTally()
    for reason, field in (
        (FinishReason.ERROR, ""),
        (FinishReason.ERROR, "grammar"),
        (FinishReason.ABORT, ""),
        (FinishReason.LENGTH, ""),
    ):
        end = Finished(handle=Handle(1), reason=reason, field=field)
        tally.see_ends(frame_of_tokens(finished=(end,)))
    assert tally.stats().broken == 1

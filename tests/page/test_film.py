"""A recorded run becomes moments that can be worked out in the head, and is bounded."""

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest

from mell_jax.page import film_streams
from mell_jax.page.film import MOST_DOTS, MOST_MOMENTS, Film, film_of
from mell_jax.page.film_streams import FilmStreams
from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.simulator import record
from mell_jax.scheduler.simulator.fleet import SimulatedFleet
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import (
    Lognormal,
    Synthetic,
    Workload,
    draw,
)

SETTINGS = Settings(
    capacity_tokens=160, decode_tokens_per_s=16.0, max_devices=8, link_gbps=1.0
)


def workload(*requests: tuple[float, int, int]) -> Workload:
    arrival_s, given, made = (
        np.array(column) for column in zip(*requests, strict=True)
    )
    return Workload(
        name="by hand",
        arrival_s=arrival_s.astype(np.float64),
        input_tokens=given.astype(np.int64),
        output_tokens=made.astype(np.int64),
        models=(ONLY_MODEL,) * len(requests),
    )


def log_of(
    load: Workload, *, settings: Settings = SETTINGS, policy: str = "consolidate"
) -> Iterator[str]:
    config, file = PolicyConfig(), io.StringIO()
    header = record.make_header(policy, config=config, settings=settings, workload=load)
    log = record.EventLog(file, header=header)
    machine = Machine(models=settings.models(), policy=POLICIES[policy](config))
    SimulatedFleet(
        machine, workload=load, settings=settings, clock=lambda: 0.0, log=log
    ).run()
    log.ended({"devices_mean": 1.0})
    return iter(file.getvalue().splitlines(keepends=True))


def film(load: Workload, *, settings: Settings = SETTINGS) -> Film:
    return film_of(log_of(load, settings=settings), title="a run")


def test_one_request_is_seen_from_its_first_moment_to_its_end() -> None:
    # A page a second: one at the start, and four more for its 64 other tokens.
    seen = film(workload((0.0, 15, 65)))
    assert (seen.title, seen.tick_tokens, seen.speed) == ("a run, consolidate", 16, 1)
    first, *_, last = seen.moments
    assert (first.at, first.in_use, first.bound) == (0.0, 1, 1)
    assert first.dots.numbers == (0,) and first.dots.devices == (0,)
    assert [tile.state for tile in first.tiles] == ["serving"]
    assert (first.tiles[0].used, first.tiles[0].capacity) == (1, 10)
    assert last.dots.numbers == ()
    assert last.totals.tokens == 4 * 16
    assert last.totals.device_s == pytest.approx(last.at, abs=0.11)
    ticks = [tick for m in seen.moments for lane in m.lanes for tick in lane.ticks]
    assert len(ticks) == 4
    assert np.diff(ticks).tolist() == pytest.approx([1.0] * 3, abs=0.02)
    assert seen.moments[-1].lanes[0].is_over
    assert sum(last.gaps.unmoved) == 3 and sum(last.gaps.moved) == 0


def test_a_request_that_moves_is_seen_on_both_devices() -> None:
    # The second fits beside the first at its start only; whoever goes, goes once.
    seen = film(workload((0.0, 60, 90), (0.5, 60, 90)))
    last = seen.moments[-1]
    assert last.totals.moves == 1 and last.totals.bytes > 0
    marks = [mark for m in seen.moments for lane in m.lanes for mark in lane.moves]
    ((_, source, target),) = marks
    assert {source, target} == {0, 1}
    homes = {
        (number, device)
        for m in seen.moments
        for number, device in zip(m.dots.numbers, m.dots.devices, strict=True)
        if device >= 0
    }
    moved = {number for number, _ in homes if {(number, 0), (number, 1)} <= homes}
    assert len(moved) == 1
    assert sum(last.gaps.after) == 1
    assert max(moment.in_use for moment in seen.moments) == 2


def test_ticks_are_told_once_and_say_how_many_came_before() -> None:
    seen = film(workload((0.0, 10, 100), (3.0, 10, 100)))
    told: dict[int, int] = {}
    for moment in seen.moments:
        for lane in moment.lanes:
            assert lane.first == told.get(lane.request, 0)
            assert all(tick <= moment.at + 0.01 for tick in lane.ticks)
            told[lane.request] = lane.first + len(lane.ticks)
    assert told == {0: 6, 1: 6}


def test_what_another_policy_would_hold_is_beside_it() -> None:
    seen = film(workload(*[(0.1 * n, 30, 120) for n in range(12)]))
    (rival,) = seen.moments[-1].rivals
    assert rival.policy == "best_fit" and rival.device_s > 0
    assert max(moment.rivals[0].devices for moment in seen.moments) >= 4


def test_a_long_crowded_run_is_bounded() -> None:
    settings = Settings(capacity_tokens=4000, max_devices=100)
    lengths = Lognormal(mean=200.0, sigma=0.5)
    load = draw(
        Synthetic(
            rate_per_s=30.0,
            span_s=40.0,
            input_lengths=lengths,
            output_lengths=lengths,
            burstiness=1.0,
        ),
        seed=1,
        max_input_tokens=3000,
        max_tokens=3900,
    )
    seen = film(load, settings=settings)
    assert 10 < len(seen.moments) <= MOST_MOMENTS
    shown = [len(moment.dots.numbers) for moment in seen.moments]
    assert max(shown) <= MOST_DOTS
    assert any(moment.dots.left_out for moment in seen.moments)
    known = {number for moment in seen.moments for number in moment.dots.numbers}
    stride = min(b - a for a, b in zip(sorted(known), sorted(known)[1:], strict=False))
    assert stride in (2, 4, 8) and not any(number % stride for number in known)
    assert len(seen.json()) < 4_000_000
    json.loads(seen.json())


def test_moments_are_thinned_out_evenly() -> None:
    seen = film(workload((0.0, 10, 20), (2 * MOST_MOMENTS + 9.0, 10, 20)))
    times = [moment.at for moment in seen.moments]
    assert len(times) <= MOST_MOMENTS
    assert set(np.diff(times[:-1]).tolist()) == {4.0}
    assert [moment.number for moment in seen.moments] == list(range(len(times)))


def test_ticks_are_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_streams, "MOST_TICKS", 10)
    streams = FilmStreams(page_tokens=16)
    streams.place(RequestId(1), DeviceGroupId(0))
    for index in range(40):
        streams.tick(RequestId(1), at_s=float(index), index=index)
    assert streams.tick_tokens == 16 * 4
    ((lane,),) = streams.lanes([100.0])
    assert lane.ticks == tuple(float(at_s) for at_s in range(0, 40, 4))
    assert sum(streams.gaps().unmoved) == 39


def test_what_is_no_log_is_refused() -> None:
    with pytest.raises(ValueError, match="not an event log"):
        film_of(iter(["{}\n"]), title="")
    head, *lines = log_of(workload((0.0, 15, 65)))
    with pytest.raises(ValueError, match="line 3 of the log is damaged"):
        film_of(iter([head, lines[0], "{"]), title="")
    with pytest.raises(ValueError, match="no request comes"):
        film_of(iter([head, lines[0]]), title="")

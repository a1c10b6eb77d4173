"""What a fleet of toy hosts shows of itself: metrics, `mell-top`, the page's feed."""

import asyncio
import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console

from mell_jax import top
from mell_jax.engine.fleet_view import FleetView, MoveOutcome
from mell_jax.engine.frames import EngineLoad
from mell_jax.page.live import moment_of
from mell_jax.serving.metrics.scrape import Scrape
from mell_jax.serving.page.feed import Feed
from tests.hosts.toy_hosts import ToyControl, ToyFront, toy_hosts
from tests.toy import expected

NUM_PAGES = 17
NAMES = ["host0/0", "host0/1", "host1/0", "host1/1"]
MOST_S = 120.0


def wait_for(front: ToyFront, is_so: Callable[[FleetView], Any]) -> FleetView:
    """Returns the first view of which something is so."""
    end_s = time.monotonic() + MOST_S
    while (view := front.engine.load().fleet) is None or not is_so(view):
        assert time.monotonic() < end_s, view
        time.sleep(0.02)
    return view


def run_some(front: ToyFront, *, count: int = 12) -> None:
    """Has streams that move and are exact, from their first to their last token."""
    prompts = [[n + 1] * (3 + 2 * (n % 5)) for n in range(count)]
    wanted = {
        front.submit(prompt, count=80): expected(prompt, count=80) for prompt in prompts
    }
    assert front.wait_finished(list(wanted))
    assert {handle: front.tokens[handle] for handle in wanted} == wanted


def run_until(front: ToyFront, is_so: Callable[[FleetView], Any]) -> FleetView:
    """Has streams until something is so; returns the view of which it is."""
    end_s = time.monotonic() + MOST_S
    while True:
        run_some(front)
        view = wait_for(front, lambda _: True)
        if is_so(view):
            return view
        assert time.monotonic() < end_s, view


def watch_until(front: ToyFront, is_so: Callable[[EngineLoad], Any]) -> EngineLoad:
    """Has long streams until something is so; returns the load of which it is."""
    end_s = time.monotonic() + MOST_S
    while True:
        for _ in range(16):
            front.submit([1, 2, 3], count=90)
        for _ in range(20):
            load = front.engine.load()
            if load.fleet is not None and is_so(load):
                return load
            time.sleep(0.02)
        assert time.monotonic() < end_s, load


def text_of(load: EngineLoad) -> str:
    scrape = Scrape(load=load, measured={}, refused={}, is_serving=True)
    return scrape.text().decode()


def pictured(text: str) -> str:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(top.picture(top.parse(text), before=None, elapsed_s=0.0))
    return capture.get()


def committed(view: FleetView) -> int:
    return view.stats.count(MoveOutcome.COMMITTED)


def is_whole(view: FleetView) -> bool:
    return len(view.instances) == len(NAMES)


def is_at_rest(view: FleetView) -> bool:
    return not (view.requests.numbers or view.moves)


def test_two_hosts_and_their_moves_are_seen() -> None:
    with toy_hosts(hosts=2, policy="load_balance", num_pages=NUM_PAGES) as (
        _,
        hosts,
        front,
    ):
        wait_for(front, is_whole)
        run_until(front, committed)
        view = wait_for(front, is_at_rest)
        assert sorted(view.names.values()) == NAMES
        assert [each.used_pages for each in view.instances] == [0] * len(NAMES)
        assert committed(view) == sum(view.stats.carried.values()) > 0
        assert view.stats.gap_s.count > 0 and view.stats.gap_steps is None
        sent = [host.host.hands.tally.stats().sent_bytes for host in hosts]
        wait_for(front, lambda view: view.stats.sent_bytes == sum(sent))
        assert 0 < view.device_s <= view.at_s * len(NAMES)
        check_metrics(front.engine.load())


def check_metrics(load: EngineLoad) -> None:
    seen = top.parse(text_of(load))
    assert {labels["host"] for labels, _ in seen.of("host_epoch")} == {"host0", "host1"}
    moves = seen.total("migrations_total", outcome="committed")
    assert moves == seen.total("migrations_between_total") > 0
    ends = {labels["source"] for labels, _ in seen.of("migrations_between_total")}
    assert ends <= set(NAMES)
    places = {
        f"{labels['host']}/{labels['device']}"
        for labels, _ in seen.of("instance_state")
    }
    assert sorted(places) == NAMES
    for name in ("paused", "sleep_freed_bytes", "migration_downtime_steps_count"):
        assert not seen.of(name), name  # cannot be had over hosts
    shown = pictured(text_of(load))
    assert "of 4 devices in use" in shown and ", 2 hosts" in shown
    assert all(name in shown for name in NAMES)
    assert "steps" not in shown.split("downtime")[1]
    assert f"{moves:.0f} so far" in shown


def test_streams_are_seen_where_they_are() -> None:
    with toy_hosts(hosts=2, policy="load_balance", num_pages=NUM_PAGES) as (
        _,
        _,
        front,
    ):
        wait_for(front, is_whole)

        def is_busy(load: EngineLoad) -> bool:
            view = load.fleet
            assert view is not None
            return any(view.requests.tokens) and bool(view.streams) and load.running > 0

        view = watch_until(front, is_busy).fleet
        assert view is not None
        assert set(view.requests.devices) - {-1} <= set(view.names)
        assert {stream.device for stream in view.streams} <= set(view.names)
        assert any(stream.ticks_s for stream in view.streams)
        told = json.loads(first_event(front))
        assert sorted(tile["name"] for tile in told["tiles"]) == NAMES
        assert all(number < 2**53 for number in told["dots"]["numbers"])
        assert told["age"] < MOST_S


def first_event(front: ToyFront) -> bytes:
    """Returns the first moment that somebody hears who watches."""

    async def watch() -> bytes:
        feed = Feed(front.engine.load)
        feed.enter()
        async for event in feed.watch():
            if event.startswith(b"data: "):
                feed.close()
                return event.removeprefix(b"data: ")
        raise AssertionError("nothing was told")

    return asyncio.run(watch())


def test_without_a_controller_the_last_word_is_shown_with_its_age() -> None:
    with toy_hosts(hosts=2, policy="load_balance", num_pages=NUM_PAGES) as (
        control,
        _,
        front,
    ):
        wait_for(front, is_whole)
        run_until(front, committed)
        before = wait_for(front, is_at_rest)
        control.stop()
        away = wait_for(front, lambda view: view.controller_age_s >= 2.0)
        assert (away.names, committed(away)) == (before.names, committed(before))
        old = replace(away, controller_age_s=12.0)
        load = replace(front.engine.load(), fleet=old)
        assert "the controller is away" in pictured(text_of(load))
        assert "12 s ago" in pictured(text_of(load))
        moment = moment_of(load)
        assert moment is not None and moment.age == 12.0
        other = ToyControl(address=control.address, hosts=1, policy="load_balance")
        try:
            wait_for(front, lambda view: view.controller_age_s < 2.0)
            after = run_until(front, lambda view: committed(view) > committed(away))
            # Hosts that hold nothing may begin anew, under other numbers.
            assert {*after.names.values()} == {*before.names.values()}
        finally:
            other.stop()


def test_a_host_that_is_lost_is_shown_no_more_and_its_counts_stay() -> None:
    with toy_hosts(hosts=2, policy="load_balance", num_pages=NUM_PAGES) as (
        _,
        hosts,
        front,
    ):
        wait_for(front, is_whole)
        run_until(front, committed)
        wait_for(front, is_at_rest)
        tokens = front.engine.load().generated_tokens
        hosts[1].vanish()
        view = wait_for(front, lambda view: len(view.instances) == 2)
        assert {each.host for each in view.instances} == {"host0"}
        assert 0 < view.stats.losses <= 2
        assert front.engine.load().generated_tokens >= tokens > 0
        seen = top.parse(text_of(front.engine.load()))
        assert {labels["host"] for labels, _ in seen.of("host_epoch")} == {"host0"}

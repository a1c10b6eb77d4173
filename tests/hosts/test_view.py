"""What a fleet of toy hosts shows of itself: metrics, `mell-top`, the page's feed."""

import asyncio
import contextlib
import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console

from mell_jax import top
from mell_jax.engine.fleet_view import FleetView, MoveOutcome
from mell_jax.engine.frames import Handle
from mell_jax.page.live import moment_of
from mell_jax.serving.metrics.scrape import Scrape
from mell_jax.serving.page.feed import Feed
from tests.hosts.toy_hosts import ToyControl, ToyFront, toy_hosts
from tests.toy import expected

NUM_PAGES = 17
NAMES = ["host0/0", "host0/1", "host1/0", "host1/1"]


def look(front: ToyFront) -> FleetView:
    """Returns the latest view, once there is one."""
    while (view := front.engine.load().fleet) is None:
        time.sleep(0.02)
    return view


def wait_for(front: ToyFront, is_so) -> FleetView:
    """Returns the first view of which something is so."""
    end_s = time.monotonic() + 60.0
    while not is_so(view := look(front)):
        assert time.monotonic() < end_s, view
        time.sleep(0.02)
    return view


def scraped(front: ToyFront) -> str:
    scrape = Scrape(load=front.engine.load(), measured={}, refused={}, is_serving=True)
    return scrape.text().decode()


def pictured(text: str) -> str:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(top.picture(top.parse(text), before=None, elapsed_s=0.0))
    return capture.get()


@contextlib.contextmanager
def streaming(front: ToyFront, *, count: int) -> Iterator[dict[Handle, list[int]]]:
    """Has requests that fill instances unevenly, so that some have to move."""
    prompts = [[n + 1] * (3 + 2 * (n % 5)) for n in range(count)]
    wanted = {
        front.submit(prompt, count=80): expected(prompt, count=80) for prompt in prompts
    }
    yield wanted
    assert front.wait_finished(list(wanted))
    assert {handle: front.tokens[handle] for handle in wanted} == wanted


def committed(view: FleetView) -> int:
    return view.stats.count(MoveOutcome.COMMITTED)


def test_two_hosts_their_streams_and_their_moves_are_seen() -> None:
    with toy_hosts(hosts=2, policy="load_balance", num_pages=NUM_PAGES) as (
        _,
        hosts,
        front,
    ):
        wait_for(front, lambda view: len(view.instances) == len(NAMES))
        with streaming(front, count=16) as wanted:
            busy = wait_for(front, lambda view: any(view.requests.tokens))
            assert any(each.running for each in busy.instances)
            assert {stream.device for stream in busy.streams} <= set(busy.names)
        moved = wait_for(front, committed)
        rest = wait_for(front, lambda view: not view.requests.numbers)
        assert sorted(rest.names.values()) == NAMES
        assert [each.used_pages for each in rest.instances] == [0] * len(NAMES)
        assert sum(rest.stats.carried.values()) == committed(rest)
        assert rest.stats.gap_s.count > 0 and rest.stats.gap_steps is None
        assert rest.stats.sent_bytes == sum(
            host.host.hands.tally.stats().sent_bytes for host in hosts
        )
        assert moved.controller_age_s is not None and moved.controller_age_s < 60.0
        assert 0 < rest.device_s <= rest.at_s * len(NAMES)
        assert front.engine.load().generated_tokens >= 80 * len(wanted)
        check_metrics(front)


def check_metrics(front: ToyFront) -> None:
    text = scraped(front)
    seen = top.parse(text)
    assert {labels["host"] for labels, _ in seen.of("host_epoch")} == {"host0", "host1"}
    assert seen.total("migrations_total", outcome="committed") == seen.total(
        "migrations_between_total"
    )
    places = {
        f"{labels['host']}/{labels['device']}"
        for labels, _ in seen.of("instance_state")
    }
    assert sorted(places) == NAMES
    for name in ("paused", "sleep_freed_bytes", "migration_downtime_steps_count"):
        assert not seen.of(name), name  # cannot be had over hosts
    shown = pictured(text)
    assert "of 4 devices in use" in shown and ", 2 hosts" in shown
    assert "host1/1" in shown and "away" not in shown
    assert "steps" not in shown.split("downtime")[1]


def test_the_page_is_fed_with_hosts_by_name() -> None:
    with toy_hosts(hosts=2, policy="load_balance", num_pages=NUM_PAGES) as (
        _,
        _,
        front,
    ):
        wait_for(front, lambda view: len(view.instances) == len(NAMES))
        with streaming(front, count=12):
            wait_for(front, lambda view: view.streams and view.requests.numbers)
            told = json.loads(first_event(front))
        assert {tile["name"] for tile in told["tiles"]} <= set(NAMES)
        devices = {tile["device"] for tile in told["tiles"]}
        assert told["lanes"]
        assert all(lane["device"] in devices for lane in told["lanes"])
        assert all(number < 2**53 for number in told["dots"]["numbers"])
        assert {lane["request"] for lane in told["lanes"]} & set(
            told["dots"]["numbers"]
        )
        assert told["age"] < 60.0


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
        with streaming(front, count=8):
            before = wait_for(front, committed)
        control.stop()
        away = wait_for(front, lambda view: view.controller_age_s >= 1.0)
        assert away.names == before.names
        assert committed(away) >= committed(before)
        old = replace(away, controller_age_s=12.0)
        load = replace(front.engine.load(), fleet=old)
        text = Scrape(load=load, measured={}, refused={}, is_serving=True).text()
        assert "the controller is away" in pictured(text.decode())
        assert "12 s ago" in pictured(text.decode())
        moment = moment_of(load)
        assert moment is not None and moment.age == 12.0
        other = ToyControl(address=control.address, hosts=1, policy="load_balance")
        try:
            wait_for(front, lambda view: view.controller_age_s < 1.0)
            with streaming(front, count=12):
                pass
            after = wait_for(front, lambda view: committed(view) > committed(away))
            assert after.names == before.names
        finally:
            other.stop()


def test_a_host_that_is_lost_is_shown_no_more_and_its_counts_stay() -> None:
    with toy_hosts(hosts=2, policy="load_balance", num_pages=NUM_PAGES) as (
        _,
        hosts,
        front,
    ):
        with streaming(front, count=8):
            wait_for(front, committed)
        wait_for(front, lambda view: not view.requests.numbers)
        tokens = front.engine.load().generated_tokens
        hosts[1].vanish()
        view = wait_for(front, lambda view: len(view.instances) == 2)
        assert {each.host for each in view.instances} == {"host0"}
        assert 0 < view.stats.losses <= 2
        assert front.engine.load().generated_tokens >= tokens > 0
        scraped(front)  # moves to devices that are gone are left out

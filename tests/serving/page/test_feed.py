"""Many watch one feed: each moment is encoded once, and nobody waits for the slow."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from mell_jax.engine.frames import EngineLoad
from mell_jax.frontend import OverloadedError
from mell_jax.serving.page.feed import Feed
from tests.page.views import LOAD, VIEW

PERIOD_S = 0.005


class Fleet:
    """Has another view at every look, until it is to stand still."""

    def __init__(self) -> None:
        self.number = 0
        self.stands_still = False
        self.has_looked = asyncio.Event()

    def load(self) -> EngineLoad:
        self.number += not self.stands_still
        self.has_looked.set()
        return dataclasses.replace(
            LOAD, fleet=dataclasses.replace(VIEW, number=self.number)
        )

    async def looks(self, count: int) -> None:
        """Waits for so many more looks."""
        for _ in range(count):
            self.has_looked.clear()
            await self.has_looked.wait()


def run(scenario: Callable[[Fleet, Feed], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        fleet = Fleet()
        feed = Feed(fleet.load, period_s=PERIOD_S, most_watchers=3)
        await scenario(fleet, feed)
        feed.close()

    asyncio.run(asyncio.wait_for(main(), timeout=30))


async def enter(feed: Feed) -> AsyncGenerator[bytes]:
    feed.enter()
    watcher = feed.watch()
    assert await anext(watcher) == b"retry: 2000\n\n"
    return watcher


def number_of(event: bytes) -> int:
    assert event.startswith(b"data: {") and event.endswith(b"}\n\n")
    return int(json.loads(event.removeprefix(b"data: "))["number"])


def test_a_watcher_sees_the_fleet_at_once_and_then_again_and_again() -> None:
    async def scenario(fleet: Fleet, feed: Feed) -> None:
        watcher = await enter(feed)
        assert [number_of(await anext(watcher)) for _ in range(4)] == [1, 2, 3, 4]

    run(scenario)


def test_all_get_the_same_bytes() -> None:
    async def scenario(fleet: Fleet, feed: Feed) -> None:
        first, second = await enter(feed), await enter(feed)
        await anext(first)
        await anext(second)
        for _ in range(3):
            event, other = await asyncio.gather(anext(first), anext(second))
            assert event is other

    run(scenario)


def test_who_is_slow_gets_the_latest_and_nothing_is_kept_for_him() -> None:
    async def scenario(fleet: Fleet, feed: Feed) -> None:
        slow, quick = await enter(feed), await enter(feed)
        assert number_of(await anext(slow)) == 1
        seen = [number_of(await anext(quick)) for _ in range(9)]
        assert seen == list(range(1, 10))
        assert number_of(await anext(slow)) == 9

    run(scenario)


def test_a_fleet_that_stands_still_is_told_of_once() -> None:
    async def scenario(fleet: Fleet, feed: Feed) -> None:
        watcher = await enter(feed)
        await anext(watcher)
        fleet.stands_still = True
        following = asyncio.ensure_future(anext(watcher))
        await fleet.looks(5)
        assert not following.done()
        fleet.stands_still = False
        assert number_of(await following) == 2

    run(scenario)


def test_nobody_looks_where_nobody_watches() -> None:
    async def scenario(fleet: Fleet, feed: Feed) -> None:
        watcher = await enter(feed)
        await anext(watcher)
        assert feed._looking is not None
        looking = feed._looking
        feed.leave()
        await looking
        looked = fleet.number
        watcher = await enter(feed)  # and it begins anew
        assert [number_of(await anext(watcher)) for _ in range(3)][-1] > looked

    run(scenario)


def test_only_so_many_may_watch() -> None:
    async def scenario(fleet: Fleet, feed: Feed) -> None:
        for _ in range(3):
            await enter(feed)
        with pytest.raises(OverloadedError, match="3 watch the fleet already"):
            feed.enter()
        feed.leave()
        await enter(feed)
        assert feed.num_watchers == 3

    run(scenario)


def test_the_end_of_the_feed_ends_what_is_watched() -> None:
    async def scenario(fleet: Fleet, feed: Feed) -> None:
        watchers = [await enter(feed), await enter(feed)]
        ends = [asyncio.ensure_future(count(each)) for each in watchers]
        await fleet.looks(2)
        feed.close()
        assert min(await asyncio.gather(*ends)) >= 1

    run(scenario)


async def count(watcher: AsyncGenerator[bytes]) -> int:
    return len([event async for event in watcher])

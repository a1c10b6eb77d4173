"""The feed tells everybody who watches the same moments, each encoded once.

    engine's load --every PERIOD_S, while anybody watches--> one text --> all watchers

A watcher who is slow gets the latest moment when it has taken the one before: what
came between is dropped, and nothing is queued for it. All in one event loop.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import final

from mell_jax.engine.frames import EngineLoad
from mell_jax.frontend import OverloadedError
from mell_jax.page.live import moment_of
from mell_jax.serving.http.sse import event_bytes

PERIOD_S = 0.5
MOST_WATCHERS = 64
_RETRY = b"retry: 2000\n\n"  # milliseconds, after which a browser comes back


@final
class Feed:
    """The feed looks at one engine.

    Args:
      load: how busy the engine is, with its fleet.
      period_s: between two looks.
      most_watchers: above which nobody more is let in.
    """

    def __init__(
        self,
        load: Callable[[], EngineLoad],
        *,
        period_s: float = PERIOD_S,
        most_watchers: int = MOST_WATCHERS,
    ) -> None:
        self.num_watchers = 0
        self._load = load
        self._period_s = period_s
        self._most_watchers = most_watchers
        self._number = -1  # of the moment that was told last
        self._event = b""  # the latest; empty before the first one
        self._has_news = asyncio.Event()  # replaced at every moment
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    def close(self) -> None:
        """Ends what everybody watches."""
        self._is_closed = True
        self._has_news.set()

    def enter(self) -> None:
        """Counts one more who watches, until it leaves.

        Raises:
          OverloadedError: so many watch already.
        """
        if not (self.num_watchers < self._most_watchers):
            raise OverloadedError(
                f"{self._most_watchers} watch the fleet already, the most that a front "
                "end lets in; close a page",
                retry_after_s=10.0,
            )
        self.num_watchers += 1

    def leave(self) -> None:
        """Counts one less who watches."""
        self.num_watchers -= 1

    async def watch(self) -> AsyncGenerator[bytes]:
        """Yields events to one who has entered, until the feed is closed."""
        seen = b""
        yield _RETRY  # so that a watcher knows at once that it is let in
        self._start()
        while not self._is_closed:
            has_news = self._has_news
            if self._event is not seen:
                seen = self._event
                yield seen
            else:
                await has_news.wait()

    def _start(self) -> None:
        """Looks at once, and again while anybody watches."""
        if self._looking is None:
            self._look()
            self._looking = asyncio.create_task(self._look_again())

    async def _look_again(self) -> None:
        while self.num_watchers and not self._is_closed:
            await asyncio.sleep(self._period_s)
            self._look()
        self._looking = None

    def _look(self) -> None:
        """Encodes the engine's latest moment, if it is another one."""
        moment = moment_of(self._load())
        if moment is None or moment.number == self._number:
            return
        self._number = moment.number
        self._event = event_bytes(moment.json())
        self._has_news.set()
        self._has_news = asyncio.Event()

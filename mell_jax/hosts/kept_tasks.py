"""Tasks of an event loop are kept until they end, and one that fails is told of."""

import asyncio
from collections.abc import Callable
from typing import final

from absl import logging


@final
class KeptTasks:
    """These tasks belong together; nobody waits for what they return.

    Args:
      failure: what the log says of one that has raised, which is a bug.
      failed: hears what it has raised.
    """

    def __init__(
        self, failure: str, *, failed: Callable[[BaseException], None] = lambda _: None
    ) -> None:
        self._failure = failure
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, task: asyncio.Task[None]) -> None:
        """Keeps a task until it ends."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def cancel_all(self) -> None:
        """Cancels those that have not ended."""
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logging.error(self._failure, exc_info=error)
            self._failed(error)

"""Runs trials in processes of their own, as many at a time as there are.

They are ended at once when the pool is left, also by Ctrl-C, which they do not hear.
"""

import asyncio
import concurrent.futures
import multiprocessing
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Self, final

from mell_jax.planner.trial import Task, Trial, run_trial


@final
class TrialPool:
    """Runs tasks, inside a `with`.

    Args:
      jobs: processes.
      on_done: hears of each trial that has ended.
    """

    def __init__(self, *, jobs: int, on_done: Callable[[Trial], None]) -> None:
        if not (jobs >= 1):
            raise ValueError(f"--jobs must be >= 1, got {jobs}")
        context = multiprocessing.get_context("spawn")  # a fork would copy threads
        self._pool = context.Pool(jobs, initializer=_begin)
        self._on_done = on_done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.terminate()
        self._pool.join()

    async def run(self, task: Task) -> Trial:
        """Returns the trial of a task; raises what it raised."""
        # One that outlives the event loop, which may be over when a trial ends.
        ended: concurrent.futures.Future[Trial] = concurrent.futures.Future()
        ended.set_running_or_notify_cancel()
        self._pool.apply_async(
            run_trial,
            (task,),
            callback=ended.set_result,
            error_callback=ended.set_exception,
        )
        trial = await asyncio.wrap_future(ended)
        self._on_done(trial)
        return trial


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it is told

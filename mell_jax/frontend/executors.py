"""Threads of a front end, apart by what they do and for which model.

Templates, tokenizers and texts are a model's or a client's, and may take for ever; what
hangs in one kind of work, or for one model, holds up no other kind and no other model.
A thread cannot be ended, so readiness looks whether each kind still comes back.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from typing import TypeVar, final

T = TypeVar("T")
_THREADS = 2  # of each kind


class Job(Enum):
    """A kind of work that leaves the event loop."""

    RENDER = "render"
    TOKENIZE = "tokenize"
    READ = "read"
    GRAMMAR = "grammar"
    METRICS = "metrics"
    LOOK = "look"  # at how a text is read


@final
class Executors:
    """Runs work on threads; one event loop calls it."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """Starts without threads; each kind gets its own when it is first needed.

        Args:
          clock: seconds, never backwards.
        """
        self._clock = clock
        self._pools: dict[tuple[Job, str], ThreadPoolExecutor] = {}
        self._probes: dict[tuple[Job, str], tuple[Future[None], float]] = {}

    async def run(self, job: Job, work: Callable[[], T], *, model: str = "") -> T:
        """Returns what `work` returns, and raises what it raises.

        Args:
          job: the kind of work.
          work: called on a thread of that kind and model.
          model: whose template or tokenizer it uses; empty for none's.
        """
        key = (job, model)
        if key not in self._pools:
            self._pools[key] = ThreadPoolExecutor(
                _THREADS, thread_name_prefix=f"mell-{job.value}"
            )
        return await asyncio.get_running_loop().run_in_executor(self._pools[key], work)

    def are_alive(self, *, patience_s: float) -> bool:
        """Returns whether work of every kind has come back within `patience_s`.

        Call it now and then: each call sends one more no-op to those that have answered
        the one before.
        """
        now_s, is_alive = self._clock(), True
        for key, pool in self._pools.items():
            probe = self._probes.get(key)
            if probe is None or probe[0].done():
                self._probes[key] = (pool.submit(_nothing), now_s)
            elif now_s - probe[1] >= patience_s:
                is_alive = False
        return is_alive

    def close(self) -> None:
        """Lets threads end with what they do now."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._pools.clear()


def _nothing() -> None:
    pass

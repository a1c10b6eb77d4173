"""Follows streams in a thread of its own, and notes when each token came."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import final

from mell_jax.bench.workload import Int32Array
from mell_jax.engine.params import SamplingParams
from mell_jax.llm import LLM

LATE_S = 600.0


@final
class Followed:
    """The times at which tokens of streams came, in seconds of `time.perf_counter`."""

    def __init__(self, count: int) -> None:
        self.times_s: list[list[float]] = [[] for _ in range(count)]
        self.stop = threading.Event()

    def wait_for(self, tokens: int) -> None:
        """Waits until every stream has so many tokens more.

        Raises:
          RuntimeError: one ended before that, or got none for a long time.
        """
        wanted = [len(times) + tokens for times in self.times_s]
        late_s = time.perf_counter() + LATE_S
        while any(len(t) < n for t, n in zip(self.times_s, wanted, strict=True)):
            if self.stop.is_set() or time.perf_counter() > late_s:
                raise RuntimeError(
                    "a stream came to its end while it was measured: give a longer "
                    "--max_model_len"
                )
            time.sleep(0.001)

    def gaps_s(self, *, start_s: float, end_s: float) -> list[float]:
        """Returns all gaps between tokens of a stream that touch a stretch of time."""
        return [
            after - before
            for times in self.times_s
            for before, after in itertools.pairwise(times)
            if after > start_s and before < end_s
        ]


@contextlib.contextmanager
def followed(
    llm: LLM, prompts: Sequence[Int32Array], params: SamplingParams
) -> Iterator[Followed]:
    """Yields streams that go on, each with its own prompt; gives them up afterwards.

    They go on until the block ends, if their context is long enough.
    """
    notes = Followed(len(prompts))
    follower = threading.Thread(
        target=asyncio.run, args=(_follow_all(llm, prompts, params, notes),)
    )
    follower.start()
    try:
        yield notes
    finally:
        notes.stop.set()
        follower.join()


async def _follow_all(
    llm: LLM, prompts: Sequence[Int32Array], params: SamplingParams, notes: Followed
) -> None:
    try:
        await asyncio.gather(
            *(
                _follow(llm, prompt, params, times_s, notes.stop)
                for prompt, times_s in zip(prompts, notes.times_s, strict=True)
            )
        )
    finally:
        notes.stop.set()


async def _follow(
    llm: LLM,
    prompt: Int32Array,
    params: SamplingParams,
    times_s: list[float],
    stop: threading.Event,
) -> None:
    async for delta in llm.astream(prompt, params):
        times_s += [time.perf_counter()] * len(delta.token_ids)
        if stop.is_set() or delta.finish is not None:
            stop.set()
            return

"""What hangs in one kind of work, or for one model, holds up no other."""

import asyncio
import threading

import pytest

from mell_jax.frontend.executors import Executors, Job


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_what_hangs_holds_up_nothing_else_and_shows() -> None:
    async def scenario() -> None:
        clock, stuck = Clock(), threading.Event()
        executors = Executors(clock=clock)
        hung = [
            asyncio.ensure_future(executors.run(Job.RENDER, stuck.wait, model="a"))
            for _ in range(8)
        ]
        await asyncio.sleep(0)
        for job, model in (
            (Job.RENDER, "b"),
            (Job.TOKENIZE, "a"),
            (Job.READ, ""),
            (Job.GRAMMAR, ""),
            (Job.METRICS, ""),
        ):
            assert await executors.run(job, lambda: 7, model=model) == 7
        assert executors.are_alive(patience_s=60.0)
        clock.now_s = 59.0
        assert executors.are_alive(patience_s=60.0)
        clock.now_s = 60.0
        assert not executors.are_alive(patience_s=60.0)
        stuck.set()
        assert await asyncio.gather(*hung) == [True] * 8
        while not executors.are_alive(patience_s=60.0):
            await asyncio.sleep(0.01)
        executors.close()

    asyncio.run(scenario())


def test_what_work_raises_is_raised() -> None:
    async def scenario() -> None:
        executors = Executors(clock=Clock())

        def fail() -> None:
            raise ValueError("of the work")

        with pytest.raises(ValueError, match="of the work"):
            await executors.run(Job.READ, fail)
        executors.close()

    asyncio.run(scenario())

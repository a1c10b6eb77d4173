"""The loop in a thread: who asks while it closes is told, and no work is left over."""

import asyncio
import gc
import random
import threading
import time
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any

import pytest

from mell_jax.loop_thread import LoopThread

ASKERS = 8


async def soon(value: int, *, wait_s: float = 0.0) -> int:
    await asyncio.sleep(wait_s)
    return value


def ask_until_told(loop: LoopThread, told: list[str], *, seed: int) -> None:
    """Asks on and on, from a thread or from a loop, until it is told of the end."""
    chance = random.Random(seed)

    def work() -> Coroutine[Any, Any, int]:
        return soon(seed, wait_s=chance.choice([0.0, 0.0, 0.001, 10.0]))

    async def ask() -> int:
        return await loop.acall(work)

    while True:
        try:
            in_thread = chance.random() < 0.5
            got = loop.call(work) if in_thread else asyncio.run(ask())
            assert got == seed
        except (RuntimeError, CancelledError, asyncio.CancelledError) as error:
            told.append(str(error))
            return


@pytest.mark.parametrize("round_", range(6))
def test_closing_leaves_nobody_waiting_and_no_work_behind(round_: int) -> None:
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop = LoopThread("test-loop", owner="loop")
        threads = [
            threading.Thread(
                target=ask_until_told,
                args=(loop, told),
                kwargs={"seed": 100 * round_ + n},
            )
            for n in range(ASKERS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.004 * round_)
        loop.close()
        for thread in threads:
            thread.join(10.0)
        gc.collect()
    assert not any(thread.is_alive() for thread in threads)
    assert len(told) == ASKERS
    assert not loop.is_alive


def test_what_comes_after_the_end_is_told_and_never_made() -> None:
    loop = LoopThread("test-loop", owner="loop")
    loop.close()
    loop.close()
    made = []
    with pytest.raises(RuntimeError, match="this loop is closed: make a new one"):
        loop.call(lambda: soon(made.append(1) or 1))
    assert not made


def test_errors_of_the_work_are_the_callers() -> None:
    async def fail() -> None:
        raise KeyError("of the work")

    loop = LoopThread("test-loop", owner="loop")
    with pytest.raises(KeyError, match="of the work"):
        loop.call(fail)
    with pytest.raises(KeyError, match="of the work"):
        asyncio.run(loop.acall(fail))
    loop.close()


def test_a_caller_that_is_cancelled_gives_its_work_up() -> None:
    loop = LoopThread("test-loop", owner="loop")
    began, ended = threading.Event(), threading.Event()

    async def last() -> None:
        began.set()
        try:
            await asyncio.sleep(60.0)
        finally:
            ended.set()

    async def leave() -> None:
        task = asyncio.create_task(loop.acall(last))
        await asyncio.to_thread(began.wait, 10.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert ended.wait(10.0)
    loop.close()


def test_work_that_is_nearly_done_may_end() -> None:
    loop = LoopThread("test-loop", owner="loop")
    got: list[int] = []
    began = threading.Event()

    async def end_in_time() -> int:
        began.set()
        return await soon(7, wait_s=0.05)

    thread = threading.Thread(target=lambda: got.append(loop.call(end_in_time)))
    thread.start()
    assert began.wait(10.0)
    loop.close()
    thread.join(10.0)
    assert got == [7]


def test_an_interrupt_right_after_the_posting_ends_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = LoopThread("test-loop", owner="loop")
    post = loop.loop.call_soon_threadsafe
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60.0)
        finally:
            ended.set()

    def post_and_interrupt(call: Callable[[], object]) -> object:
        monkeypatch.undo()
        posted = post(call)
        assert begun.wait(10.0)
        raise KeyboardInterrupt(str(posted))

    monkeypatch.setattr(loop.loop, "call_soon_threadsafe", post_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.call(work)
    assert ended.is_set()
    loop.close()

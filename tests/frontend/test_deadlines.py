"""Who waits too long is told why: there is too much to do, or the engine rests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mell_jax.engine.admin import Command, Pause, Sleep
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.thread import EngineThread
from mell_jax.frontend import (
    AdmissionLimits,
    Ask,
    Caller,
    FrontEnd,
    FrontModel,
    QueueTimeoutError,
    RequestTimeoutError,
    generate,
)
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.fleet.toy_fleet import toy_fleet

LONG = SamplingParams(temperature=0.0, max_tokens=100)


@asynccontextmanager
async def served(
    limits: AdmissionLimits,
) -> AsyncIterator[tuple[EngineThread, FrontEnd]]:
    """A toy that decodes on a thread, and its front end."""
    thread = EngineThread(toy_fleet(devices=1), compilations=CompilationCounter())
    front_end = FrontEnd(
        thread.send,
        models=[FrontModel(info=thread.infos[0], tokenizer=None)],
        limits=limits,
        load=thread.load,
    )
    thread.start(front_end.sink(asyncio.get_running_loop()))
    try:
        yield thread, front_end
    finally:
        await asyncio.to_thread(thread.stop)
        front_end.close()


async def answer(front_end: FrontEnd) -> int:
    ask = Ask(caller=Caller.of_library(), prompt=[1, 2, 3], params=LONG)
    return sum([len(delta.token_ids) async for delta in generate(front_end, ask)])


@pytest.mark.parametrize(
    ("command", "does"),
    [
        (Pause(), "is paused"),
        (Sleep(level=1), "sleeps"),
        (Sleep(level=2, keeps="drop"), "sleeps"),
    ],
)
def test_who_waits_in_line_is_told_what_the_engine_does(
    command: Command, does: str
) -> None:
    async def scenario() -> None:
        for limits, kind in (
            (AdmissionLimits(queue_timeout_s=0.1), QueueTimeoutError),
            (AdmissionLimits(request_timeout_s=0.1), RequestTimeoutError),
        ):
            async with served(limits) as (thread, front_end):
                await asyncio.wrap_future(thread.ask(command))
                with pytest.raises(kind, match=f"the engine {does}.* try again later"):
                    await answer(front_end)

    asyncio.run(asyncio.wait_for(scenario(), timeout=30))


def test_an_engine_that_works_has_too_much_to_do() -> None:
    async def scenario() -> None:
        async with served(AdmissionLimits(queue_timeout_s=1e-9)) as (_, front_end):
            with pytest.raises(QueueTimeoutError, match="has too much to do"):
                await answer(front_end)
        async with served(AdmissionLimits(request_timeout_s=1e-9)) as (_, front_end):
            with pytest.raises(RequestTimeoutError, match="ask for fewer tokens"):
                await answer(front_end)

    asyncio.run(asyncio.wait_for(scenario(), timeout=30))

"""A thousand readers leave at the same moment."""

import asyncio
from typing import Any

import grpc

from tests.serving.harness import ids_request
from tests.serving.processes.toy_stage import ToyStage, books_of, perform_toy
from tests.toy import expected, toy_engine

STREAMS, GOOD, ROWS = 1000, 8, 64
PAGES = 4096


async def answer_to(stage: ToyStage, prompt: int, *, count: int) -> list[int]:
    request = ids_request(prompt, max_tokens=count, temperature=0.0)
    *_, last = [part async for part in stage.stub.Generate(request)]
    return list(last.complete.output_ids)


async def go_on(stage: ToyStage, prompt: int, *, is_over: asyncio.Event) -> int:
    """Asks the same again and again; how often it was answered."""
    answers = 0
    while not is_over.is_set():
        tokens = await answer_to(stage, prompt, count=40)
        assert tokens == expected([prompt], count=40)
        answers += 1
    return answers


def test_a_thousand_cancels_at_once_free_all_pages_and_harm_nobody() -> None:
    engine = toy_engine(
        max_rows=ROWS, num_pages=PAGES, token_budget=256, max_tokens=1024
    )

    async def script(stage: ToyStage) -> None:
        is_over, has_token = asyncio.Event(), asyncio.Semaphore(0)
        good = [
            asyncio.ensure_future(go_on(stage, prompt, is_over=is_over))
            for prompt in range(1, GOOD + 1)
        ]

        async def read(call: grpc.aio.UnaryStreamCall) -> Any:
            await call.read()
            has_token.release()
            while await call.read() is not grpc.aio.EOF:
                pass

        stage.may_step.clear()
        calls = [
            stage.stub.Generate(ids_request(3, max_tokens=1000, temperature=0.0))
            for _ in range(STREAMS)
        ]
        readers = [asyncio.ensure_future(read(call)) for call in calls]
        await stage.wait_open(STREAMS + GOOD)
        stage.may_step.set()
        for _ in range(ROWS - GOOD):
            await has_token.acquire()
        assert stage.thread.load().used_pages >= ROWS - GOOD
        assert [call.cancel() for call in calls].count(True) == STREAMS
        await asyncio.gather(*readers, return_exceptions=True)
        await stage.wait_open(GOOD)
        is_over.set()
        assert min(await asyncio.gather(*good)) > 0
        await stage.wait_open(0)
        assert await answer_to(stage, 5, count=9) == expected([5], count=9)
        assert stage.thread.load().used_pages == 0

    perform_toy(script, engine=engine)
    assert books_of(engine) == {}

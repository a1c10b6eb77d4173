"""Several requests on one stream, without gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from mell_jax.serving.kserve.conversation import converse
from mell_jax.serving.problem import MalformedMessageError


async def feed(*requests: str) -> AsyncIterator[str]:
    for request in requests:
        yield request


def test_no_more_requests_are_read_than_may_be_open() -> None:
    async def scenario() -> None:
        begun: list[str] = []
        go_on = asyncio.Event()

        async def answer(request: str) -> AsyncGenerator[str]:
            begun.append(request)
            yield request
            await go_on.wait()

        said = converse(feed("a", "b", "c", "d"), answer=answer, max_open=2)
        assert {await anext(said), await anext(said)} == {"a", "b"}
        assert begun == ["a", "b"]
        go_on.set()
        assert sorted([each async for each in said]) == ["c", "d"]

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_leaving_early_closes_every_answer() -> None:
    async def scenario() -> None:
        closed: list[str] = []

        async def answer(request: str) -> AsyncGenerator[str]:
            try:
                while True:
                    yield request
            finally:
                closed.append(request)

        async with contextlib.aclosing(converse(feed("a", "b"), answer=answer)) as said:
            await anext(said)
        assert sorted(closed) == ["a", "b"]

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_malformed_request_ends_the_stream_once_the_others_are_answered() -> None:
    async def requests() -> AsyncIterator[str]:
        yield "a"
        raise MalformedMessageError("nonsense")

    async def answer(request: str) -> AsyncGenerator[str]:
        for _ in range(40):
            yield request

    async def scenario() -> None:
        said = []
        with pytest.raises(MalformedMessageError, match="nonsense"):
            async for each in converse(requests(), answer=answer):
                said.append(each)
        assert said == ["a"] * 40

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_answer_that_fails_against_its_promise_ends_the_stream() -> None:
    async def answer(request: str) -> AsyncGenerator[str]:
        yield request
        raise RuntimeError("a bug of ours")

    async def scenario() -> None:
        with pytest.raises(ExceptionGroup):
            async for _ in converse(feed("a"), answer=answer):
                pass

    asyncio.run(asyncio.wait_for(scenario(), 20))

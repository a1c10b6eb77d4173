"""Request ids that other front ends may have, with a test that answers for them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mell_jax.engine.params import SamplingParams
from mell_jax.frontend import (
    Delta,
    DuplicateRequestError,
    EngineDeadError,
    FrontEnd,
    FrontModel,
)
from tests.frontend.asking import generate_for_us
from tests.frontend.fake_peers import FakePeers
from tests.serving.fake_engine import INFO, FakeEngine


class Bench:
    def __init__(self) -> None:
        self.peers = FakePeers()
        self.engine = FakeEngine(is_manual=True)
        self.front_end = FrontEnd(
            self.engine.send, models=[FrontModel(info=INFO)], peers=self.peers
        )
        self.engine.start(self.front_end.deliver)

    def start(self, **options: Any) -> "asyncio.Task[list[Delta]]":
        async def read() -> list[Delta]:
            params = SamplingParams(max_tokens=1)
            answer = generate_for_us(
                self.front_end, prompt=[3], params=params, **options
            )
            return [delta async for delta in answer]

        return asyncio.ensure_future(read())

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await asyncio.sleep(0)


def run(scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def with_bench() -> None:
        await scenario(Bench())

    asyncio.run(asyncio.wait_for(with_bench(), timeout=20))


def test_a_request_waits_for_the_word_on_its_id_and_gives_it_back() -> None:
    async def scenario(bench: Bench) -> None:
        answer = bench.start(request_id="r")
        await bench.until(lambda: "r" in bench.peers.claims)
        for _ in range(20):
            await asyncio.sleep(0)
        assert bench.engine.submits == []
        bench.peers.claims["r"].set_result(True)
        await bench.until(lambda: bench.engine.submits)
        assert bench.peers.released == []
        bench.engine.step()
        (delta,) = await answer
        assert delta.token_ids == (3,)
        assert bench.peers.released == ["r"]

    run(scenario)


def test_an_id_of_another_front_end_is_refused_before_anything_is_counted() -> None:
    async def scenario(bench: Bench) -> None:
        answer = bench.start(request_id="r")
        await bench.until(lambda: "r" in bench.peers.claims)
        bench.peers.claims["r"].set_result(False)
        with pytest.raises(DuplicateRequestError, match="'r' is in flight"):
            await answer
        assert bench.engine.submits == []
        assert bench.front_end.num_open == 0
        assert bench.front_end.admission.queued == 0
        assert bench.front_end.meter.measured()["letters"].prompt_tokens == 0

    run(scenario)


def test_nobody_is_asked_for_an_id_that_no_client_chose() -> None:
    async def scenario(bench: Bench) -> None:
        answer = bench.start()
        await bench.until(lambda: bench.engine.submits)
        bench.engine.step()
        assert len(await answer) == 1
        assert (bench.peers.claims, bench.peers.released) == ({}, [])

    run(scenario)


def test_who_waits_for_an_id_may_leave() -> None:
    async def scenario(bench: Bench) -> None:
        answer = bench.start(request_id="r")
        await bench.until(lambda: "r" in bench.peers.claims)
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        assert bench.peers.released == ["r"]
        assert bench.front_end.num_open == 0
        bench.peers.claims["r"].set_result(True)  # nobody listens

    run(scenario)


def test_service_may_end_before_an_id_is_known_to_be_free() -> None:
    async def scenario(bench: Bench) -> None:
        answer = bench.start(request_id="r")
        await bench.until(lambda: "r" in bench.peers.claims)
        bench.front_end.stop("out of memory")
        with pytest.raises(EngineDeadError, match="out of memory; 0 tokens"):
            await answer

    run(scenario)


def test_a_request_may_fail_before_its_id_is_known_to_be_free() -> None:
    async def scenario(bench: Bench) -> None:
        with bench.front_end.open("r") as request:
            waiting = asyncio.ensure_future(request.confirm())
            await asyncio.sleep(0)
            request.fail(TimeoutError("too long"))
            with pytest.raises(TimeoutError, match="too long"):
                await waiting

    run(scenario)


def test_an_abort_before_the_word_on_the_id_reaches_no_engine() -> None:
    async def scenario(bench: Bench) -> None:
        answer = bench.start(request_id="r")
        await bench.until(lambda: "r" in bench.peers.claims)
        bench.front_end.abort(["r"])
        bench.peers.claims["r"].set_result(True)
        (delta,) = await answer
        assert delta.finish is not None
        assert delta.finish.reason == "abort"
        assert bench.engine.submits == []
        assert bench.peers.released == ["r"]

    run(scenario)

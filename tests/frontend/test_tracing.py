"""What is recorded of a request, once it is over."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.frontend import (
    FrontEnd,
    FrontModel,
    Origin,
    OverloadedError,
    RequestRecord,
)
from mell_jax.frontend.tracing import Tracing
from tests.frontend.asking import generate_for_us
from tests.serving.fake_engine import INFO, FakeEngine

HERE = Origin(operation="chat", traceparent="00-1-2-01")


class Rig:
    """A front end whose engine steps when told; keeps what is recorded."""

    def __init__(self, *, max_open: int = 9) -> None:
        self.engine = FakeEngine(is_manual=True)
        self.records: list[RequestRecord] = []
        self.front_end = FrontEnd(
            self.engine.send,
            models=[FrontModel(info=INFO)],
            max_open=max_open,
            recorder=self.records.append,
        )
        self.engine.start(self.front_end.deliver)

    async def read(self, *ids: int, deltas: int = 99, **params: Any) -> None:
        stream = generate_for_us(
            self.front_end, prompt=ids, params=SamplingParams(**params), origin=HERE
        )
        async with aclosing(stream):
            reading = asyncio.ensure_future(self._read(stream, deltas))
            while not reading.done():
                await asyncio.sleep(0)
                if self.engine.num_live:
                    self.engine.step()
            reading.result()

    async def _read(self, stream: Any, deltas: int) -> None:
        async for _ in stream:
            deltas -= 1
            if not deltas:
                return


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), timeout=30))


def test_a_request_is_recorded_when_all_samples_are_over() -> None:
    async def scenario() -> None:
        rig = Rig()
        await rig.read(1, 2, n=2, max_tokens=3)
        (record,) = rig.records
        assert (record.origin, record.model, record.error) == (HERE, "letters", "")
        outcome = record.outcome
        assert outcome is not None
        assert (outcome.prompt_tokens, outcome.generation_tokens) == (2, 6)
        assert outcome.reasons == ("length", "length")
        assert outcome.first_token_s is not None
        length_s = (record.end_ns - record.start_ns) * 1e-9
        assert 0.0 <= outcome.first_token_s <= length_s + 0.01  # of two clocks

    run(scenario)


def test_a_reader_that_leaves_is_no_failure() -> None:
    async def scenario() -> None:
        rig = Rig()
        await rig.read(1, deltas=1, max_tokens=500)
        (record,) = rig.records
        assert record.error == ""
        assert record.outcome is not None
        assert record.outcome.reasons == ("abort",)

    run(scenario)


def test_a_refused_request_says_why_and_no_more() -> None:
    async def scenario() -> None:
        rig = Rig(max_open=1)
        with pytest.raises(InvalidRequestError):
            await rig.read(99)
        with rig.front_end.open(), pytest.raises(OverloadedError):
            await rig.read(1)
        assert [each.error for each in rig.records] == [
            "InvalidRequestError",
            "OverloadedError",
        ]
        assert [each.outcome for each in rig.records] == [None, None]

    run(scenario)


def test_a_dead_engine_is_a_failure_of_what_was_open() -> None:
    async def scenario() -> None:
        rig = Rig()
        reading = asyncio.ensure_future(rig.read(1, max_tokens=5))
        await asyncio.sleep(0)
        rig.front_end.stop("lost")
        await asyncio.wait([reading])
        assert reading.exception() is not None
        (record,) = rig.records
        assert record.error == "EngineDeadError"

    run(scenario)


def test_without_a_recorder_a_request_costs_one_object_for_all() -> None:
    tracing = Tracing()
    assert tracing.watch(HERE, model="a") is tracing.watch(HERE, model="b")

"""Ten times as many requests as may wait, against a front end's process."""

import asyncio
import time
from collections.abc import Iterable

import grpc
import pytest
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.bench.stats import median
from mell_jax.frontend import AdmissionLimits
from tests.serving.fake_engine import FakeEngine
from tests.serving.harness import ids_request
from tests.serving.processes.stage import Stage, perform
from tests.serving.test_refusals import retry_s_of

TIMES = 10
CALLERS = 32
MOST_MEDIAN_MS = 500.0  # some 15 on an idle machine


async def ask(stub: pb_grpc.VllmEngineStub, *, refused_ms: list[float]) -> list[int]:
    """The answer; none when it was refused with words on when to come back."""
    start_s = time.monotonic()
    try:
        parts = [p async for p in stub.Generate(ids_request(1, max_tokens=3))]
    except grpc.aio.AioRpcError as error:
        refused_ms.append(1e3 * (time.monotonic() - start_s))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_s_of(error) >= 1.0
        return []
    return list(parts[-1].complete.output_ids)


async def ask_in_turn(
    stub: pb_grpc.VllmEngineStub, *, turns: Iterable[int]
) -> list[float]:
    """Milliseconds of refusals, to `CALLERS` callers that ask one after the other."""
    refused_ms: list[float] = []

    async def caller() -> None:
        for _ in turns:  # each takes the next one
            assert await ask(stub, refused_ms=refused_ms) == []

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return refused_ms


@pytest.mark.parametrize("capacity", [128, pytest.param(1024, marks=pytest.mark.slow)])
def test_a_flood_is_refused_at_once_and_the_admitted_get_their_answers(
    capacity: int,
) -> None:
    engine = FakeEngine(is_manual=True)

    async def flood(stage: Stage) -> None:
        async with grpc.aio.insecure_channel(stage.addresses.grpc) as channel:
            stub, is_told = pb_grpc.VllmEngineStub(channel), asyncio.Semaphore(0)
            calls = [
                asyncio.ensure_future(ask(stub, refused_ms=[]))
                for _ in range(TIMES * capacity)
            ]
            for call in calls:
                call.add_done_callback(lambda _: is_told.release())
            for _ in range((TIMES - 1) * capacity):
                await is_told.acquire()
            assert len(engine.submits) == capacity
            in_turn_ms = await ask_in_turn(stub, turns=iter(range(4 * capacity)))
            assert len(in_turn_ms) == 4 * capacity
            assert median(in_turn_ms) < MOST_MEDIAN_MS
            for _ in range(3):
                engine.step()
            answers = await asyncio.gather(*calls)
        assert answers.count([1, 2, 4]) == capacity
        assert answers.count([]) == (TIMES - 1) * capacity
        assert len(engine.submits) == capacity
        assert engine.num_live == 0

    def script(stage: Stage) -> None:
        asyncio.run(asyncio.wait_for(flood(stage), timeout=200))

    limits = AdmissionLimits(max_queued=capacity)
    assert perform(script, engine=engine, admission=limits, max_open=2**16) == ""

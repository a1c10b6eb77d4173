import asyncio

import numpy as np
import pytest

from mell_jax.bench.metrics import Record
from mell_jax.bench.replay import Order, replay
from mell_jax.bench.targets import (
    StreamPiece,
    TargetError,
    TargetInfo,
    connect,
    run_here,
)


class FakeTarget:
    """Answers a token at a time; the first prompt token says how it goes wrong."""

    info = TargetInfo(name="fake", context=100, vocab_size=10, eos_ids=())

    def __init__(self) -> None:
        self.open = self.most_open = 0

    async def stream(self, prompt, *, output_tokens, temperature):
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            for done in range(output_tokens):
                await asyncio.sleep(0)
                if prompt[0] == 1 and done == 1:
                    raise TargetError("it broke")
                if prompt[0] == 2 and done == 1:
                    return
                yield StreamPiece(tokens=1, cached_tokens=4)
        finally:
            self.open -= 1


def order(*prompt: int, output_tokens: int = 3, arrival_s: float = 0.0) -> Order:
    return Order(
        prompt=np.array(prompt, np.int32),
        output_tokens=output_tokens,
        arrival_s=arrival_s,
    )


def test_every_token_of_every_request_is_recorded_in_order():
    orders = [order(5, 5, output_tokens=2), order(5, output_tokens=4)]
    outcome = asyncio.run(replay(FakeTarget(), orders))
    assert [record.output_tokens for record in outcome.records] == [2, 4]
    assert [record.input_tokens for record in outcome.records] == [2, 1]
    assert [record.cached_tokens for record in outcome.records] == [4, 4]
    for record in outcome.records:
        times = [record.sent_s, *(time_s for time_s, _ in record.chunks)]
        assert times == sorted(times)


def test_a_request_is_never_sent_before_it_is_due():
    outcome = asyncio.run(replay(FakeTarget(), [order(5), order(5, arrival_s=0.05)]))
    first, second = outcome.records
    assert second.sent_s >= second.due_s
    assert second.due_s - first.due_s == pytest.approx(0.05)
    assert outcome.duration_s >= 0.05


@pytest.mark.parametrize(("limit", "most"), [(None, 5), (2, 2), (1, 1)])
def test_no_more_requests_are_open_than_allowed(limit, most):
    target = FakeTarget()
    asyncio.run(replay(target, [order(5, output_tokens=30)] * 5, max_concurrency=limit))
    assert target.most_open == most


def test_a_request_that_fails_does_not_stop_the_others():
    outcome = asyncio.run(replay(FakeTarget(), [order(1), order(5)]))
    assert [record.error for record in outcome.records] == ["it broke", ""]


def test_an_answer_that_is_too_short_is_a_failure():
    (record,) = asyncio.run(replay(FakeTarget(), [order(2)])).records
    assert "as many tokens" in record.error


def test_each_finished_request_is_reported():
    seen = []
    asyncio.run(replay(FakeTarget(), [order(5)] * 3, on_done=seen.append))
    assert len(seen) == 3


def test_an_engine_in_this_process_answers_and_refuses(built):
    async def scenario() -> list[Record]:
        async with run_here(built) as target:
            assert target.info == TargetInfo(
                name=built.thread.infos[0].model_name,
                context=128,
                vocab_size=256,
                eos_ids=(),
            )
            orders = [order(5, 6, 7), order(9, output_tokens=8), order(9_999)]
            return list((await replay(target, orders)).records)

    first, second, refused = asyncio.run(scenario())
    assert (first.output_tokens, second.output_tokens) == (3, 8)
    assert "9999" in refused.error


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("mell_jax.bench.targets.CONNECT_S", 0.2)

    async def scenario() -> None:
        async with connect("localhost:1"):
            pass

    with pytest.raises(TargetError, match="no server answers at localhost:1"):
        asyncio.run(scenario())

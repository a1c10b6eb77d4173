"""Nothing is left of requests that are over; planted leaks show that this can fail.

The engine is a real one, of the toy model, and its front end a process of its own.
"""

from pathlib import Path

import pytest

from benchmarks.service.slope import settled_slope
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.ids import Serial
from mell_jax.serving.processes import front_end_pool
from tests.serving.churn import KINDS, LIMITS, Churn, Trace
from tests.serving.processes.leaky_child import LEAK_BYTES
from tests.serving.processes.toy_stage import ToyStage, books_of, perform_toy
from tests.toy import toy_engine

ROOT = Path(__file__).parents[2]
ROUNDS, EACH = 30, 8
MOST_BYTES = 1024  # per request; about 300 while caches still fill


def churn() -> tuple[Trace, dict[str, int]]:
    """What a server shows after each round, and what is in the engine's books."""
    engine, traces = toy_engine(), []

    async def script(stage: ToyStage) -> None:
        traces.append(await Churn(stage).run(rounds=ROUNDS, each=EACH))

    perform_toy(script, engine=engine, admission=LIMITS)
    return traces[0], books_of(engine)


def bytes_per_request(trace: Trace) -> float:
    requests = [KINDS * EACH * number for number in range(ROUNDS)]
    return settled_slope(requests, trace.front_bytes)


def test_requests_of_every_kind_leave_nothing_behind() -> None:
    trace, books = churn()
    assert trace.used_pages == (0,) * ROUNDS
    assert books == {}
    assert bytes_per_request(trace) < MOST_BYTES


def test_a_front_end_that_keeps_something_of_each_request_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(front_end_pool, "_CHILD", "tests.serving.processes.leaky_child")
    trace, books = churn()
    assert bytes_per_request(trace) > 0.5 * LEAK_BYTES > MOST_BYTES
    assert books == {}


def test_an_engine_that_keeps_a_page_of_what_was_aborted_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancel, kept = Batcher.cancel, []

    def forget_a_page(self: Batcher, serial: Serial, *, trusted: bool = True) -> None:
        sequences, limit = self.sequences, self.sequences.sequence(serial).limit
        if serial in sequences.running and limit > 100 and len(kept) < 8:  # endless
            kept.append(sequences.pages_of(serial)[-1:])
            self.cache._pool.retain(kept[-1])
        cancel(self, serial, trusted=trusted)

    monkeypatch.setattr(Batcher, "cancel", forget_a_page)
    trace, books = churn()
    assert trace.used_pages[-1] > 0
    assert books == {"used pages": trace.used_pages[-1]}
    assert bytes_per_request(trace) < MOST_BYTES

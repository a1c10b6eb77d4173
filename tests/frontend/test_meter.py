"""Times and counts of streams, by a clock that a test can read."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import numpy as np
import pytest

from mell_jax.engine.frames import (
    Finished,
    FinishReason,
    Handle,
    PromptDone,
    Submit,
)
from mell_jax.engine.histogram import Histogram
from mell_jax.engine.params import SamplingParams
from mell_jax.frontend import (
    Delta,
    FrontEnd,
    FrontModel,
    OverloadedError,
    SampleEnd,
)
from mell_jax.frontend.meter import Meter, ModelFigures
from tests.frontend.asking import generate_for_us
from tests.serving.fake_engine import INFO, FakeEngine


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def sample(prompt: int = 3, max_tokens: int = 9) -> Submit:
    return Submit(
        handle=Handle(1),
        prompt=np.ones(prompt, np.int32),
        params=SamplingParams(max_tokens=max_tokens),
    )


def delta(*ids: int, reason: str | None = None) -> Delta:
    return Delta(
        index=0,
        token_ids=ids,
        text="",
        logprobs=None,
        finish=None if reason is None else SampleEnd(reason=reason),
        prompt_token_ids=(1,),
        completion_tokens=len(ids),
        cached_tokens=0,
        prompt_logprobs=None,
    )


def filled(histogram: Histogram) -> dict[float, int]:
    """Count by upper bound."""
    bounds = (*histogram.bounds, float("inf"))
    return {b: n for b, n in zip(bounds, histogram.counts, strict=True) if n}


def done(prefill_s: float | None) -> PromptDone:
    return PromptDone(
        handle=Handle(1), cached_tokens=0, logprobs=None, prefill_s=prefill_s
    )


def test_the_time_to_the_first_token_is_queue_and_prefill() -> None:
    meter = Meter(["m"], clock=Clock())
    with meter.begin([sample()], model="m", start_s=98.0) as (watch,):
        watch.see(delta(7), prompt=done(0.5))
        watch.see(delta(8))
    seen = meter.measured()["m"]
    assert (seen.first_token_s.total, seen.prefill_s.total) == (2.0, 0.5)
    assert filled(seen.queue_s) == {2.5: 1}
    assert seen.queue_s.total == 1.5


def test_a_prompt_that_began_on_another_device_has_neither() -> None:
    meter = Meter(["m"], clock=Clock())
    with meter.begin([sample()], model="m", start_s=98.0) as (watch,):
        watch.see(delta(7), prompt=done(None))
    seen = meter.measured()["m"]
    assert filled(seen.queue_s) == filled(seen.prefill_s) == {}


def test_a_clock_that_is_a_little_off_makes_no_negative_queue() -> None:
    meter = Meter(["m"], clock=Clock())
    with meter.begin([sample()], model="m", start_s=100.0) as (watch,):
        watch.see(delta(7), prompt=done(0.25))
    assert filled(meter.measured()["m"].queue_s) == {0.001: 1}


def test_a_stream_is_timed_from_request_to_end() -> None:
    clock = Clock()
    meter = Meter(["m"], clock=clock)
    with meter.begin([sample()], model="m", start_s=99.0) as (watch,):
        watch.see(delta(7))  # 1 s after the request
        clock.now_s += 0.25
        watch.see(delta(8))
        clock.now_s += 0.5
        watch.see(delta(1, 2))  # both after half of it
        clock.now_s += 0.125
        watch.see(delta(reason="length"))
    seen = meter.measured()["m"]
    assert (seen.prompt_tokens, seen.generation_tokens) == (3, 4)
    assert seen.finished == {"length": 1}
    assert filled(seen.first_token_s) == {1.0: 1}
    assert filled(seen.inter_token_s) == {0.3: 3}
    assert seen.inter_token_s.total == 0.75
    assert seen.decode_s.total == 0.75
    assert seen.request_s.total == 1.875
    assert filled(seen.request_prompt_tokens) == {5.0: 1}
    assert filled(seen.request_generation_tokens) == {5.0: 1}
    assert filled(seen.request_max_tokens) == {10.0: 1}


def test_tokens_that_come_first_together_have_no_gap() -> None:
    clock = Clock()
    meter = Meter(["m"], clock=clock)
    with meter.begin([sample()], model="m", start_s=100.0) as (watch,):
        watch.see(delta(1, 2, 3, reason="stop"))
    seen = meter.measured()["m"]
    assert filled(seen.inter_token_s) == {0.001: 2}
    assert seen.inter_token_s.total == seen.decode_s.total == 0.0


@pytest.mark.parametrize(
    ("error", "reason"),
    [(GeneratorExit, "abort"), (asyncio.CancelledError, "abort"), (OSError, "error")],
)
def test_what_ends_a_reader_ends_its_samples(
    error: type[BaseException], reason: str
) -> None:
    meter = Meter(["m"])

    def read() -> None:
        with meter.begin([sample()] * 3, model="m", start_s=0.0) as watches:
            watches[1].see(delta(1, reason="stop"))
            raise error

    with pytest.raises(error):
        read()
    assert meter.measured()["m"].finished == {"stop": 1, reason: 2}
    assert meter.measured()["m"].prompt_tokens == 3  # once for all samples


def test_measures_of_two_processes_add_up() -> None:
    one, two = Meter(["m"], clock=lambda: 2.0), Meter(["m"], clock=lambda: 5.0)
    for meter, reason in ((one, "stop"), (two, "length"), (two, "stop")):
        with meter.begin([sample()], model="m", start_s=1.0) as (watch,):
            watch.see(delta(7, reason=reason))
    wire = msgspec.msgpack.encode(one.measured()["m"])
    sent = msgspec.msgpack.decode(wire, type=ModelFigures)
    both = sent + two.measured()["m"]
    assert (both.prompt_tokens, both.generation_tokens) == (9, 3)
    assert both.finished == {"stop": 2, "length": 1}
    assert filled(both.first_token_s) == {1.0: 1, 5.0: 2}
    assert both.first_token_s.total == 9.0


def test_an_unknown_model_is_refused_so_that_labels_stay_few() -> None:
    with pytest.raises(KeyError):
        Meter(["m"]).begin([sample()], model="other", start_s=0.0)


def run(scenario: Callable[[FrontEnd, FakeEngine], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        engine = FakeEngine()
        models = [FrontModel(info=INFO)]
        front_end = FrontEnd(engine.send, models=models, max_open=1)
        engine.start(front_end.sink(asyncio.get_running_loop()))
        try:
            await scenario(front_end, engine)
        finally:
            await asyncio.to_thread(engine.stop)

    asyncio.run(asyncio.wait_for(main(), timeout=30))


def test_every_stream_is_counted() -> None:
    async def scenario(front_end: FrontEnd, engine: FakeEngine) -> None:
        for prompt, n in ((1, 2), (31 - 8, 1)):
            params = SamplingParams(max_tokens=4, n=n)
            async for _ in generate_for_us(front_end, prompt=[prompt], params=params):
                pass
        with pytest.raises(OverloadedError), front_end.open():
            await anext(generate_for_us(front_end, prompt=[1], params=SamplingParams()))
        stream = generate_for_us(front_end, prompt=[1], params=SamplingParams())
        await anext(stream)
        await stream.aclose()
        seen = front_end.meter.measured()["letters"]
        assert seen.finished == {"length": 3, "abort": 1}
        assert seen.prompt_tokens == 3
        assert seen.generation_tokens >= 13
        assert sum(seen.first_token_s.counts) == 4
        assert front_end.meter.refused == {"overloaded": 1}

    run(scenario)


def test_a_request_that_fails_alone_counts_as_an_error() -> None:
    async def scenario(front_end: FrontEnd, engine: FakeEngine) -> None:
        engine.fail_with[5] = Finished(
            handle=Handle(1), reason=FinishReason.ERROR, message="planted"
        )
        stream = generate_for_us(
            front_end, prompt=[5], params=SamplingParams(max_tokens=1)
        )
        with pytest.raises(Exception, match="planted"):
            await anext(stream)
        assert front_end.meter.measured()["letters"].finished == {"error": 1}

    run(scenario)

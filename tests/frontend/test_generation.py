import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mell_jax.engine.frames import EngineInfo, Finished, FinishReason, Handle
from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.frontend import (
    Ask,
    Caller,
    Delta,
    DuplicateRequestError,
    EngineDeadError,
    FrontEnd,
    FrontModel,
    OverloadedError,
    RequestFailedError,
    SampleEnd,
    TokenLogprobs,
    generate,
)
from mell_jax.frontend.generation import derive_seed
from mell_jax.grammar import Grammar
from mell_jax.text.tokenizer import Tokenizer, load_tokenizer
from tests.frontend.fake_peers import FakePeers
from tests.serving.fake_engine import INFO, FakeEngine, write_letters_tokenizer

US = Caller.of_library()


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("letters")
    return load_tokenizer(write_letters_tokenizer(directory))


class Bench:
    """A front end over an engine that steps when the test says so."""

    def __init__(
        self,
        tokenizer: Tokenizer | None = None,
        *,
        info: EngineInfo = INFO,
        max_open: int = 9,
    ) -> None:
        self.engine = FakeEngine(is_manual=True)
        self.front_end = FrontEnd(
            self.engine.send,
            models=[FrontModel(info=info, tokenizer=tokenizer)],
            max_open=max_open,
        )
        self.engine.start(self.front_end.deliver)  # same thread: no loop between

    def start(
        self,
        prompt: str | Sequence[int],
        *,
        request_id: str = "",
        caller: Caller = US,
        is_text_wanted: bool = True,
        **params: Any,
    ) -> AsyncGenerator[Delta]:
        ask = Ask(
            caller=caller,
            prompt=prompt,
            params=SamplingParams(**params),
            request_id=request_id,
            is_text_wanted=is_text_wanted,
        )
        return generate(self.front_end, ask)

    async def begin(self, answer: AsyncGenerator[Delta]) -> "asyncio.Task[Delta]":
        """Asks for the first delta and lets the request reach the engine."""
        before = len(self.engine.submits)
        task = asyncio.ensure_future(_next(answer))
        while len(self.engine.submits) == before and not task.done():
            await asyncio.sleep(0)
        return task

    async def all(self, answer: AsyncGenerator[Delta], *, steps: int) -> list[Delta]:
        """Takes `steps` steps at once, then reads the whole answer."""
        first = await self.begin(answer)
        for _ in range(0 if first.done() else steps):
            self.engine.step()
        return [await first, *[delta async for delta in answer]]


async def _next(answer: AsyncGenerator[Delta]) -> Delta:
    return await anext(answer)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, timeout=20))


def test_a_prompt_of_ids_streams_ids() -> None:
    async def scenario() -> None:
        bench = Bench()
        answer = bench.start([1], max_tokens=3)
        first = await bench.begin(answer)
        bench.engine.step()
        assert await first == Delta(
            index=0,
            token_ids=(1,),
            text="",
            logprobs=None,
            finish=None,
            prompt_token_ids=(1,),
            completion_tokens=1,
            cached_tokens=0,
            prompt_logprobs=None,
        )
        bench.engine.step()
        second = await anext(answer)
        assert (second.token_ids, second.completion_tokens) == ((2,), 2)
        bench.engine.step()
        third = await anext(answer)
        assert third.token_ids == (4,)
        assert third.finish == SampleEnd(reason="length")
        with pytest.raises(StopAsyncIteration):
            await anext(answer)
        assert bench.engine.aborts == []
        assert bench.front_end.num_open == 0
        assert bench.front_end.num_live == 0

    run(scenario())


def test_a_prompt_of_text_streams_text(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters)
        deltas = await bench.all(bench.start("c", max_tokens=5), steps=5)
        assert [delta.text for delta in deltas] == ["cflxq"]
        assert bench.engine.submits[0].prompt.tolist() == [3]

    run(scenario())


def test_a_long_text_is_tokenized_too(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters, info=dataclasses.replace(INFO, max_model_len=6000))
        deltas = await bench.all(bench.start("a" * 4999, max_tokens=1), steps=1)
        assert deltas[0].prompt_tokens == 4999
        assert deltas[0].cached_tokens == 4992

    run(scenario())


def test_tokens_of_a_slow_reader_come_in_one_delta(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters)
        answer = bench.start("a", max_tokens=12)
        first = await bench.begin(answer)
        bench.engine.step()
        assert (await first).text == "a"
        for _ in range(11):
            bench.engine.step()
        rest = await anext(answer)
        assert rest.token_ids == (2, 4, 8, 16, 1, 2, 4, 8, 16, 1, 2)
        assert rest.text == "bdhpabdhpab"
        assert rest.completion_tokens == 12
        assert rest.finish == SampleEnd(reason="length")

    run(scenario())


def test_very_many_tokens_at_once_leave_the_loop_free(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters, info=dataclasses.replace(INFO, max_model_len=4000))
        answer = bench.start("a", max_tokens=3001)
        first = await bench.begin(answer)
        bench.engine.step()
        assert (await first).text == "a"
        for _ in range(3000):
            bench.engine.step()
        reading = asyncio.ensure_future(_next(answer))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        rest = reading.result()
        assert rest.text == "bdhpa" * 600
        assert rest.finish == SampleEnd(reason="length")
        assert turns > 1  # the text was made elsewhere

    run(scenario())


def test_only_requests_that_are_not_here_are_asked_of_others() -> None:
    async def scenario() -> None:
        peers = FakePeers()
        engine = FakeEngine(is_manual=True)
        front_end = FrontEnd(
            engine.send,
            models=[FrontModel(info=INFO)],
            first_handle=1000,
            peers=peers,
        )
        assert front_end.new_handle() == 1000
        with front_end.open("here") as request:
            front_end.abort(["here"])
            front_end.abort(["here", "there"])
            front_end.abort(["nowhere"], is_for_others=False)
            assert request.request_id == "here"
        assert peers.aborted == ["there"]

    run(scenario())


def test_the_end_of_sequence_ends_the_answer(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters)
        prompt = "yf"  # 25 + 6 = 31 = 0, the end of sequence
        (delta,) = await bench.all(bench.start(prompt, max_tokens=5), steps=1)
        assert delta.token_ids == (0,)
        assert delta.text == ""
        assert delta.finish == SampleEnd(reason="stop", stop_token=0)

    run(scenario())


@pytest.mark.parametrize(("is_included", "text"), [(False, "abd"), (True, "abdh")])
def test_a_stop_token_is_in_the_ids_and_in_the_text_when_asked_for(
    letters: Tokenizer, is_included: bool, text: str
) -> None:
    async def scenario() -> None:
        bench = Bench(letters)
        answer = bench.start(
            "a", stop_token_ids=(8,), include_stop_str_in_output=is_included
        )
        (delta,) = await bench.all(answer, steps=9)
        assert delta.token_ids == (1, 2, 4, 8)
        assert delta.text == text
        assert delta.finish == SampleEnd(reason="stop", stop_token=8)

    run(scenario())


def test_a_stop_string_ends_the_answer_and_the_sequence(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters)
        answer = bench.start("a", stop=("pab",), logprobs=0)
        first = await bench.begin(answer)
        for _ in range(6):
            bench.engine.step()
        assert (await first).text == "abdh"  # "pa" may become "pab"
        assert bench.engine.aborts == []
        for _ in range(5):
            bench.engine.step()
        last = await anext(answer)
        assert last.token_ids == (2,)
        assert last.logprobs is not None and len(last.logprobs) == 1
        assert last.text == ""
        assert last.completion_tokens == 7
        assert last.finish == SampleEnd(reason="stop", stop_string="pab")
        assert bench.engine.aborts == [bench.engine.submits[0].handle]
        bench.engine.step()
        assert [delta async for delta in answer] == []
        assert len(bench.engine.aborts) == 1
        assert bench.engine.num_live == 0
        assert bench.front_end.num_live == 0

    run(scenario())


def test_a_stop_string_in_the_last_tokens_needs_no_abort(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters)
        answer = bench.start("a", stop=("dh",), max_tokens=4)
        (delta,) = await bench.all(answer, steps=4)
        assert delta.text == "ab"
        assert delta.finish == SampleEnd(reason="stop", stop_string="dh")
        assert bench.engine.aborts == []

    run(scenario())


def test_text_held_back_for_a_stop_string_comes_at_the_end(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters)
        answer = bench.start("a", stop=("pax",), max_tokens=6)
        (delta,) = await bench.all(answer, steps=6)
        assert delta.text == "abdhpa"

    run(scenario())


def test_unwanted_text_is_not_made(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters)
        answer = bench.start("a", max_tokens=2, is_text_wanted=False)
        (delta,) = await bench.all(answer, steps=2)
        assert (delta.text, delta.token_ids) == ("", (1, 2))

    run(scenario())


def test_samples_have_their_own_seeds_and_one_finish_each() -> None:
    async def scenario() -> None:
        bench = Bench()
        answer = bench.start([1], n=3, max_tokens=2, seed=7, prompt_logprobs=0)
        deltas = await bench.all(answer, steps=2)
        assert [delta.index for delta in deltas] == [0, 1, 2]
        assert {delta.token_ids for delta in deltas} == {(1, 2)}
        assert [delta.finish for delta in deltas] == [SampleEnd(reason="length")] * 3
        seeds = [submit.seed for submit in bench.engine.submits]
        assert seeds[0] == 7
        assert len(set(seeds)) == 3
        assert len({submit.handle for submit in bench.engine.submits}) == 3
        asked = [submit.params.prompt_logprobs for submit in bench.engine.submits]
        assert asked == [0, None, None]

    run(scenario())


def test_samples_without_a_seed_leave_it_to_the_engine() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.all(bench.start([1], n=2, max_tokens=1), steps=1)
        assert [submit.seed for submit in bench.engine.submits] == [None, None]

    run(scenario())


def test_a_derived_seed_is_always_the_same_64_bit_integer() -> None:
    assert derive_seed(7, index=0) == 7
    assert derive_seed(7, index=1) == derive_seed(7, index=1)
    seeds = {
        derive_seed(seed, index=i) for seed in (-(2**63), 2**63 - 1) for i in (1, 2)
    }
    assert len(seeds) == 4
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)


def test_an_unset_max_tokens_is_what_the_context_leaves() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.all(bench.start([1] * 997), steps=3)
        assert bench.engine.submits[0].params.max_tokens == 3

    run(scenario())


def test_the_salt_reaches_the_engine() -> None:
    async def scenario() -> None:
        bench = Bench()
        them = Caller(tenant="them", scope="", may_send_special_tokens=True)
        await bench.all(bench.start([1], max_tokens=1, caller=them), steps=1)
        assert bench.engine.submits[0].salt == b"them"

    run(scenario())


def test_log_probabilities_are_cut_to_what_was_asked_for() -> None:
    async def scenario() -> None:
        bench = Bench()
        answer = bench.start([1, 5], max_tokens=2, logprobs=2, prompt_logprobs=1)
        (delta,) = await bench.all(answer, steps=2)
        assert delta.logprobs == (
            TokenLogprobs(token=6, logprob=-0.5, top=((6, -0.5), (7, -1.5))),
            TokenLogprobs(token=12, logprob=-0.5, top=((12, -0.5), (13, -1.5))),
        )
        assert delta.prompt_logprobs == (
            None,
            TokenLogprobs(token=5, logprob=-0.5, top=((5, -0.5),)),
        )

    run(scenario())


def test_zero_log_probabilities_mean_the_token_s_own() -> None:
    async def scenario() -> None:
        bench = Bench()
        (delta,) = await bench.all(bench.start([1], max_tokens=1, logprobs=0), steps=1)
        assert delta.logprobs == (TokenLogprobs(token=1, logprob=-0.5, top=()),)

    run(scenario())


@pytest.mark.parametrize("how", ["close", "cancel", "throw"])
def test_an_answer_left_early_is_aborted_exactly_once(how: str) -> None:
    async def scenario() -> None:
        bench = Bench()
        answer = bench.start([1], n=2)
        first = await bench.begin(answer)
        if how == "cancel":
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
        else:
            bench.engine.step()
            await first
            if how == "close":
                await answer.aclose()
            else:
                with pytest.raises(KeyError):
                    await answer.athrow(KeyError("x"))
        assert bench.engine.aborts == [s.handle for s in bench.engine.submits]
        assert bench.engine.num_live == 0
        assert bench.front_end.num_open == 0
        assert bench.front_end.num_live == 0
        bench.engine.step()  # late frames find nobody
        assert len(bench.engine.aborts) == 2

    run(scenario())


def test_only_unfinished_samples_are_aborted() -> None:
    async def scenario() -> None:
        bench = Bench()
        answer = bench.start([1], max_tokens=2, n=2)
        first = await bench.begin(answer)
        bench.engine.step()
        await first
        bench.engine.step()  # both finish
        await answer.aclose()
        assert bench.engine.aborts == []

    run(scenario())


def test_an_aborted_request_finishes_with_abort() -> None:
    async def scenario() -> None:
        bench = Bench()
        answer = bench.start([1], n=2, request_id="r")
        first = await bench.begin(answer)
        bench.engine.step()
        await first
        bench.front_end.abort(["r", "unknown"])
        bench.front_end.abort(["r"])
        assert len(bench.engine.aborts) == 2
        bench.engine.step()
        rest = [delta async for delta in answer]
        assert [delta.finish for delta in rest][-2:] == [SampleEnd(reason="abort")] * 2
        assert len(bench.engine.aborts) == 2

    run(scenario())


def test_an_abort_during_tokenization_reaches_no_engine(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters, info=dataclasses.replace(INFO, max_model_len=6000))
        answer = bench.start("a" * 5000, request_id="r")
        first = asyncio.ensure_future(_next(answer))
        while bench.front_end.num_open == 0:
            await asyncio.sleep(0)
        bench.front_end.abort(["r"])
        assert (await first).finish == SampleEnd(reason="abort")
        assert bench.engine.submits == []

    run(scenario())


def test_a_request_id_is_refused_while_it_is_in_flight() -> None:
    async def scenario() -> None:
        bench = Bench()
        answer = bench.start([1], max_tokens=1, request_id="r")
        first = await bench.begin(answer)
        with pytest.raises(DuplicateRequestError, match="'r' is in flight"):
            await anext(bench.start([1], request_id="r"))
        bench.engine.step()
        await first
        assert [delta async for delta in answer] == []
        again = bench.start([1], max_tokens=1, request_id="r")
        assert len(await bench.all(again, steps=1)) == 1

    run(scenario())


def test_more_requests_than_it_keeps_are_refused() -> None:
    async def scenario() -> None:
        bench = Bench(max_open=1)
        first = await bench.begin(bench.start([1]))
        with pytest.raises(OverloadedError, match="1 requests are open"):
            await anext(bench.start([1]))
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first

    run(scenario())


def test_a_dead_engine_fails_what_is_open_and_what_comes() -> None:
    async def scenario() -> None:
        bench = Bench()
        answer = bench.start([1])
        first = await bench.begin(answer)
        bench.engine.step()
        await first
        bench.engine.step()
        bench.engine.die("out of memory")
        assert (await anext(answer)).token_ids == (2,)
        with pytest.raises(EngineDeadError, match="out of memory; 2 tokens") as caught:
            await anext(answer)
        assert caught.value.tokens_sent == 2
        with pytest.raises(EngineDeadError, match="0 tokens"):
            await anext(bench.start([1]))
        assert await bench.front_end.wait_stopped() == "out of memory"

    run(scenario())


def test_an_answer_that_was_complete_survives_the_engine() -> None:
    async def scenario() -> None:
        bench = Bench()
        answer = bench.start([1], max_tokens=1)
        first = await bench.begin(answer)
        bench.engine.step()
        bench.engine.die("out of memory")
        assert (await first).finish == SampleEnd(reason="length")
        assert [delta async for delta in answer] == []

    run(scenario())


def test_what_the_engine_refuses_is_an_invalid_request() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.engine.fail_with[5] = Finished(
            handle=Handle(1),
            reason=FinishReason.ERROR,
            field="seed",
            message="seed is odd",
        )
        with pytest.raises(InvalidRequestError, match=r"^seed is odd$") as caught:
            await bench.all(bench.start([5]), steps=1)
        assert caught.value.field == "seed"

    run(scenario())


def test_what_fails_in_the_engine_fails_alone() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.engine.fail_with[5] = Finished(
            handle=Handle(1), reason=FinishReason.ERROR, message="logits are NaN"
        )
        with pytest.raises(RequestFailedError, match="logits are NaN"):
            await bench.all(bench.start([5]), steps=1)
        assert len(await bench.all(bench.start([1], max_tokens=1), steps=1)) == 1

    run(scenario())


@pytest.mark.parametrize(
    ("prompt", "field", "rule"),
    [
        ([], "prompt", "at least one token"),
        ([31], "prompt", "token id 31; ids go from 0 to 30"),
        ([-1], "prompt", "token id -1"),
        ([2**32 - 1], "prompt", "token id 4294967295"),
        ([2**70], "prompt", "flat list of integer"),
        ([1.5], "prompt", "flat list of integer"),
        ([[1]], "prompt", "flat list of integer"),
        ([True], "prompt", "flat list of integer"),
        ([[1], [1, 2]], "prompt", "no list of ids"),
        ([1] * 1000, "prompt", "leaves no room"),
        ("", "prompt", "must not be empty"),
        ("a" * 1000, "prompt", "leaves no room"),
        ("a" * 5000, "prompt", "5000 bytes"),
        ("\ud800", "prompt", "unpaired surrogate"),
    ],
)
def test_a_bad_prompt_is_refused(
    letters: Tokenizer, prompt: Any, field: str, rule: str
) -> None:
    async def scenario() -> None:
        bench = Bench(letters)
        with pytest.raises(InvalidRequestError, match=rule) as caught:
            await anext(bench.start(prompt))
        assert caught.value.field == field
        assert bench.engine.submits == []
        assert bench.front_end.num_open == 0

    run(scenario())


def test_a_numpy_prompt_is_fine() -> None:
    async def scenario() -> None:
        bench = Bench()
        prompt: Any = np.asarray([1, 2], dtype=np.int64)
        (delta,) = await bench.all(bench.start(prompt, max_tokens=1), steps=1)
        assert delta.token_ids == (3,)

    run(scenario())


def test_without_a_tokenizer_text_is_refused() -> None:
    async def scenario() -> None:
        bench = Bench()
        with pytest.raises(InvalidRequestError, match="must be token ids"):
            await anext(bench.start("a"))
        with pytest.raises(InvalidRequestError, match="needs a tokenizer"):
            await anext(bench.start([1], stop=("a",)))

    run(scenario())


def test_frames_cross_from_the_engine_s_thread_into_the_loop() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        front_end = FrontEnd(engine.send, models=[FrontModel(info=INFO)])
        engine.start(front_end.sink(asyncio.get_running_loop()))
        tokens: list[int] = []
        ask = Ask(caller=US, prompt=[1], params=SamplingParams(max_tokens=50))
        async for delta in generate(front_end, ask):
            tokens.extend(delta.token_ids)
        assert tokens == [1, 2, 4, 8, 16] * 10
        engine.stop()
        assert await front_end.wait_stopped() == "the engine has stopped"

    run(scenario())


def test_frames_after_the_loop_closed_are_dropped() -> None:
    loop = asyncio.new_event_loop()
    engine = FakeEngine(is_manual=True)
    sink = FrontEnd(engine.send, models=[FrontModel(info=INFO)]).sink(loop)
    loop.close()
    engine.start(sink)
    engine.step()


def test_a_grammar_that_cannot_be_used_reaches_no_engine(letters: Tokenizer) -> None:
    async def scenario() -> None:
        bench = Bench(letters)
        bad = Grammar.from_json_schema({"not": {}})
        with pytest.raises(InvalidRequestError, match='grammar has the keyword "not"'):
            await anext(bench.start("ab", grammar=bad))
        assert not bench.engine.submits
        good = Grammar.from_choice(["a"])
        await bench.all(bench.start("ab", grammar=good, max_tokens=1), steps=1)
        (submit,) = bench.engine.submits
        assert submit.params.grammar == good
        await asyncio.to_thread(bench.front_end.close)

    run(scenario())


def test_a_grammar_needs_a_tokenizer() -> None:
    async def scenario() -> None:
        answer = Bench().start([1], grammar=Grammar.from_choice(["a"]))
        with pytest.raises(InvalidRequestError, match="grammar needs a tokenizer"):
            await anext(answer)

    run(scenario())

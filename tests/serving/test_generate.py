import asyncio
import contextlib
import time
from pathlib import Path

import grpc
import pytest
from smg_grpc_proto import vllm_engine_pb2 as pb

from tests.serving.harness import error_of, ids_request, run, serving


def ids_of(responses: list[pb.GenerateResponse], *, index: int = 0) -> list[int]:
    """The tokens of one sample's chunks."""
    chunks = [r.chunk for r in responses if r.HasField("chunk")]
    return [t for chunk in chunks if chunk.index == index for t in chunk.token_ids]


def test_a_stream_sends_chunks_and_then_a_complete_message() -> None:
    async def scenario() -> None:
        async with serving() as s:
            responses = await s.collect(ids_request(1, 2, max_tokens=4))
            # 1 + 2 = 3, then it doubles modulo 31
            assert ids_of(responses) == [3, 6, 12, 24]
            assert responses[0].chunk.prompt_tokens == 2
            counts = [r.chunk.completion_tokens for r in responses[:-1]]
            assert counts[-1] == 4
            complete = responses[-1].complete
            assert list(complete.output_ids) == [3, 6, 12, 24]
            assert complete.finish_reason == "length"
            assert complete.completion_tokens == 4
            assert complete.prompt_tokens == 2
            assert complete.WhichOneof("matched_stop") is None

    run(scenario)


def test_a_unary_answer_is_the_complete_message_alone() -> None:
    async def scenario() -> None:
        async with serving() as s:
            request = ids_request(1, stream=False, max_tokens=50, logprobs=1)
            (response,) = await s.collect(request)
            assert list(response.complete.output_ids) == [1, 2, 4, 8, 16] * 10
            assert len(response.complete.output_logprobs.token_logprobs) == 50

    run(scenario)


def test_text_is_tokenized_by_the_server(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as s:
            request = pb.GenerateRequest(
                text="ab", sampling_params=pb.SamplingParams(max_tokens=2)
            )
            (response,) = await s.collect(request)
            assert list(response.complete.output_ids) == [3, 6]
            assert s.engine.submits[0].prompt.tolist() == [1, 2]

    run(scenario)


def test_three_samples_have_an_index_and_a_complete_message_each() -> None:
    async def scenario() -> None:
        async with serving() as s:
            responses = await s.collect(ids_request(1, n=3, max_tokens=3, seed=5))
            for index in range(3):
                assert ids_of(responses, index=index) == [1, 2, 4]
            completes = [r.complete for r in responses if r.HasField("complete")]
            assert sorted(c.index for c in completes) == [0, 1, 2]
            assert len({submit.seed for submit in s.engine.submits}) == 3

    run(scenario)


def test_unset_fields_mean_the_defaults() -> None:
    async def scenario() -> None:
        async with serving() as s:
            await s.collect(ids_request(31 - 1, 1))  # sum 0: the end at once
            params = s.engine.submits[0].params
            assert params.temperature == 1.0
            assert params.top_p == 1.0
            assert params.top_k == 0
            assert params.repetition_penalty == 1.0
            assert params.n == 1
            assert params.max_tokens == 998
            assert params.seed is None
            assert params.logprobs is None

    run(scenario)


def test_temperature_zero_is_kept() -> None:
    async def scenario() -> None:
        async with serving() as s:
            await s.collect(ids_request(1, max_tokens=1, temperature=0.0))
            assert s.engine.submits[0].params.is_greedy

    run(scenario)


def test_a_stop_token_is_named() -> None:
    async def scenario() -> None:
        async with serving() as s:
            responses = await s.collect(ids_request(1, stop_token_ids=[8]))
            complete = responses[-1].complete
            assert list(complete.output_ids) == [1, 2, 4, 8]
            assert complete.finish_reason == "stop"
            assert complete.matched_token_id == 8

    run(scenario)


def test_a_stop_string_across_chunks_ends_the_stream(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, is_manual=True) as s:
            request = ids_request(1, stop=["pab"])
            call = s.stub.Generate(request)
            first = asyncio.ensure_future(call.read())
            await s.until(lambda: len(s.engine.submits) == 1)
            s.engine.step()  # a
            assert list((await first).chunk.token_ids) == [1]
            for token in (2, 4, 8, 16, 1):  # b d h p a
                s.engine.step()
                assert list((await call.read()).chunk.token_ids) == [token]
            s.engine.step()  # b
            assert list((await call.read()).chunk.token_ids) == [2]
            complete = (await call.read()).complete
            assert list(complete.output_ids) == [1, 2, 4, 8, 16, 1, 2]
            assert complete.finish_reason == "stop"
            assert complete.matched_stop_str == "pab"
            assert await call.read() == grpc.aio.EOF
            await s.idle()

    run(scenario)


def test_log_probabilities_are_told_once_per_token() -> None:
    async def scenario() -> None:
        async with serving() as s:
            request = ids_request(1, 4, max_tokens=2, logprobs=2, prompt_logprobs=1)
            responses = await s.collect(request)
            rows = [r.chunk.output_logprobs for r in responses if r.HasField("chunk")]
            assert [t for row in rows for t in row.token_ids] == [5, 10]
            assert [p for row in rows for p in row.token_logprobs] == [-0.5, -0.5]
            tops = [top for row in rows for top in row.top_logprobs]
            assert [list(top.token_ids) for top in tops] == [[5, 6], [10, 11]]
            assert [list(top.values) for top in tops] == [[-0.5, -1.5]] * 2
            prompt = responses[0].chunk.input_logprobs
            assert list(prompt.token_ids) == [1, 4]
            assert [p.HasField("value") for p in prompt.token_logprobs] == [False, True]
            assert prompt.token_logprobs[1].value == -0.5
            assert list(prompt.top_logprobs[0].token_ids) == []
            assert list(prompt.top_logprobs[1].token_ids) == [4]
            assert not responses[-1].complete.HasField("output_logprobs")
            assert not responses[-1].complete.HasField("input_logprobs")

    run(scenario)


def test_a_unary_answer_has_prompt_log_probabilities() -> None:
    async def scenario() -> None:
        async with serving() as s:
            request = ids_request(1, 4, stream=False, max_tokens=2, prompt_logprobs=0)
            (response,) = await s.collect(request)
            assert list(response.complete.input_logprobs.token_ids) == [1, 4]

    run(scenario)


def test_cached_prompt_tokens_are_reported() -> None:
    async def scenario() -> None:
        async with serving() as s:
            responses = await s.collect(ids_request(*[1] * 40, max_tokens=1))
            assert responses[0].chunk.cached_tokens == 32
            assert responses[-1].complete.cached_tokens == 32

    run(scenario)


def test_the_tenant_is_the_salt_of_cached_prompts() -> None:
    async def scenario() -> None:
        async with serving() as s:
            metadata = (("x-mell-tenant", "acme"), ("x-mell-model", "letters"))
            await s.collect(ids_request(1, max_tokens=1), metadata=metadata)
            assert s.engine.submits[0].salt == b"acme"

    run(scenario)


def test_tokens_that_a_slow_reader_left_waiting_come_in_one_chunk() -> None:
    async def scenario() -> None:
        async with serving(is_manual=True) as s:
            request = ids_request(1, max_tokens=500)
            answer = asyncio.ensure_future(s.collect(request))
            await s.until(lambda: len(s.engine.submits) == 1)
            for _ in range(500):  # the loop, and so the writer, cannot run meanwhile
                s.engine.step()
            responses = await answer
            assert ids_of(responses) == [1, 2, 4, 8, 16] * 100
            assert len(responses) == 2

    run(scenario)


def test_sixty_four_streams_at_once_get_their_own_tokens() -> None:
    async def scenario() -> None:
        async with serving() as s:
            requests = [ids_request(1 + i % 30, max_tokens=40) for i in range(64)]
            answers = await asyncio.gather(*(s.collect(r) for r in requests))
            for i, responses in enumerate(answers):
                start = 1 + i % 30
                assert ids_of(responses) == [start * 2**k % 31 for k in range(40)]
            await s.idle()
            assert s.engine.aborts == []

    run(scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_an_abort_ends_all_samples_and_frees_their_pages(stream: bool) -> None:
    async def scenario() -> None:
        async with serving(is_manual=True) as s:
            request = ids_request(1, n=2, request_id="r", stream=stream)
            answer = asyncio.ensure_future(s.collect(request))
            await s.until(lambda: len(s.engine.submits) == 2)
            s.engine.step()
            for ids in (["unknown", "r"], ["r"]):  # again changes nothing
                await s.stub.Abort(pb.AbortRequest(request_ids=ids))
            assert s.engine.aborts == [x.handle for x in s.engine.submits]
            s.engine.step()
            completes = [r.complete for r in await answer if r.HasField("complete")]
            assert [c.finish_reason for c in completes] == ["abort", "abort"]
            assert [list(c.output_ids) for c in completes] == [[1], [1]]
            await s.idle()
            assert len(s.engine.aborts) == 2

    run(scenario)


@pytest.mark.parametrize("how", ["cancel", "disconnect", "deadline"])
def test_a_caller_that_goes_away_frees_its_pages(how: str) -> None:
    async def scenario() -> None:
        async with serving(is_manual=True) as s:
            channel = grpc.aio.insecure_channel(s.address)
            generate = channel.unary_stream(
                "/vllm.grpc.engine.VllmEngine/Generate",
                request_serializer=pb.GenerateRequest.SerializeToString,
                response_deserializer=pb.GenerateResponse.FromString,
            )
            timeout_s = 0.2 if how == "deadline" else None
            call = generate(ids_request(1, n=2), timeout=timeout_s)
            first = asyncio.ensure_future(call.read())
            await s.until(lambda: len(s.engine.submits) == 2)
            s.engine.step()
            await first
            await call.read()  # the other sample
            if how == "cancel":
                call.cancel()
            elif how == "disconnect":
                await channel.close()
            else:
                error = await error_of(call.read())
                assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await s.until(lambda: len(s.engine.aborts) == 2)
            await s.idle()
            await channel.close()

    run(scenario)


def test_a_deadline_that_has_passed_costs_no_pages() -> None:
    async def scenario() -> None:
        async with serving() as s:
            call = s.stub.Generate(ids_request(1), timeout=0.2)
            reading = asyncio.ensure_future(call.read())
            await asyncio.sleep(0)  # it is on its way
            time.sleep(0.4)  # nobody looks at it in time
            error = await error_of(reading)
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await s.collect(ids_request(2, max_tokens=1))
            assert [submit.prompt.tolist() for submit in s.engine.submits] == [[2]]
            await s.idle()

    run(scenario)


def test_a_request_s_id_comes_back_in_the_trailing_metadata() -> None:
    async def scenario() -> None:
        async with serving() as s:
            for request in (
                ids_request(1, max_tokens=1, request_id="mine"),
                ids_request(request_id="mine"),  # refused
            ):
                call = s.stub.Generate(request)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    assert [part async for part in call]
                assert ("x-request-id", "mine") in tuple(await call.trailing_metadata())

    run(scenario)


def test_two_hundred_cancels_at_once_leave_nothing_behind() -> None:
    async def scenario() -> None:
        async with serving(is_manual=True) as s:
            calls = [s.stub.Generate(ids_request(1)) for _ in range(200)]
            reads = [asyncio.ensure_future(call.read()) for call in calls]
            await s.until(lambda: len(s.engine.submits) == 200)
            for call in calls:
                call.cancel()
            await s.until(lambda: len(s.engine.aborts) == 200)
            await asyncio.gather(*reads, return_exceptions=True)
            await s.idle()
            assert len(set(s.engine.aborts)) == 200

    run(scenario)

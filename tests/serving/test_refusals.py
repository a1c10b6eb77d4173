"""What a client may send that it should not, and the answer it gets."""

import asyncio
import math
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import common_pb2

from mell_jax.engine.frames import Finished, FinishReason, Handle
from tests.serving.harness import Harness, error_of, ids_request, run, serving

NAN, INF = math.nan, math.inf


async def refusal(s: Harness, request: pb.GenerateRequest, **kwargs: Any) -> Any:
    """The error of a request that must not reach the engine."""
    error = await error_of(s.collect(request, **kwargs))
    assert s.engine.submits == []
    assert s.server.front_end.num_open == 0
    return error


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    status = rpc_status.from_call(error)
    assert status is not None
    details = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(details)
    return [violation.field for violation in details.field_violations]


def retry_s_of(error: grpc.aio.AioRpcError) -> float | None:
    status = rpc_status.from_call(error)
    if status is None or not status.details:
        return None
    details = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(details)
    return details.retry_delay.ToTimedelta().total_seconds()


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"temperature": NAN}, "temperature"),
        ({"temperature": INF}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1e30}, "temperature"),
        ({"top_p": NAN}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": 2**32 - 1}, "top_k"),
        ({"min_p": NAN}, "min_p"),
        ({"min_p": 2.0}, "min_p"),
        ({"presence_penalty": NAN}, "presence_penalty"),
        ({"presence_penalty": 3.0}, "presence_penalty"),
        ({"frequency_penalty": -INF}, "frequency_penalty"),
        ({"repetition_penalty": NAN}, "repetition_penalty"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1000}, "max_tokens"),
        ({"max_tokens": 2**32 - 1}, "max_tokens"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"min_tokens": 2000}, "min_tokens"),
        ({"n": 257}, "n"),
        ({"n": 2**32 - 1}, "n"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"logit_bias": {31: 1.0}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: NAN}}, "logit_bias"),
        ({"logit_bias": {1: 1e9}}, "logit_bias"),
        (
            {"logit_bias": dict.fromkeys(range(1025), 1.0)},
            "logit_bias",
        ),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x" * 257]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop_token_ids": [31]}, "stop_token_ids"),
        ({"stop_token_ids": [2**32 - 1]}, "stop_token_ids"),
        ({"stop_token_ids": list(range(17))}, "stop_token_ids"),
        ({"stop_token_ids": list(range(1, 17))}, "stop_token_ids"),
    ],
)
def test_a_bad_sampling_value_is_named(
    letters_dir: Path, sampling: dict[str, Any], field: str
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as s:
            error = await refusal(s, ids_request(1, **sampling))
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert fields_of(error) == [field]
            assert error.details().startswith(field)

    run(scenario)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateRequest(), "input"),
        (pb.GenerateRequest(text=""), "prompt"),
        (ids_request(), "prompt"),
        (ids_request(31), "prompt"),
        (ids_request(2**32 - 1), "prompt"),
        (ids_request(*[1] * 1000), "prompt"),
        (pb.GenerateRequest(text="a" * 1000), "prompt"),
        (pb.GenerateRequest(text="a" * 3_000_000), "prompt"),
        (ids_request(1, request_id="x" * 257), "request_id"),
        (ids_request(1, request_id="../\n"), "request_id"),
        (
            pb.GenerateRequest(
                tokenized=pb.TokenizedInput(input_ids=[1]), data_parallel_rank=1
            ),
            "data_parallel_rank",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_request_is_named(
    letters_dir: Path, request_: pb.GenerateRequest, field: str
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as s:
            error = await refusal(s, request_)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert fields_of(error) == [field]

    run(scenario)


def test_odd_but_valid_text_is_served(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as s:
            request = pb.GenerateRequest(
                text="\x00\u202e漢", sampling_params=pb.SamplingParams(max_tokens=1)
            )
            assert len(await s.collect(request)) == 1

    run(scenario)


@pytest.mark.parametrize(
    "request_",
    [
        ids_request(1, truncate_prompt_tokens=-1),
        pb.GenerateRequest(text="a", mm_inputs=pb.MultimodalInputs()),
        pb.GenerateRequest(text="a", extra_mm_inputs=[pb.MultimodalInputs()]),
        pb.GenerateRequest(text="a", media_refs=pb.MediaRefs()),
        pb.GenerateRequest(text="a", kv_transfer_params=pb.KvTransferParams()),
        pb.GenerateRequest(text="a", kv_transfer_params_json="{}"),
    ],
    ids=range(6),
)
def test_a_feature_that_is_not_built_is_named(request_: pb.GenerateRequest) -> None:
    async def scenario() -> None:
        async with serving() as s:
            error = await refusal(s, request_)
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED
            assert "not supported" in error.details()

    run(scenario)


def test_a_call_that_is_not_built_says_so() -> None:
    async def scenario() -> None:
        async with serving() as s:
            stub = s.stub
            calls = [
                stub.Embed(pb.EmbedRequest()),
                stub.FlushCache(common_pb2.FlushCacheRequest()),
                stub.StartProfile(common_pb2.StartProfileRequest()),
                stub.StopProfile(common_pb2.StopProfileRequest()),
                stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest()).read(),
            ]
            for call in calls:
                error = await error_of(call)
                assert error.code() == grpc.StatusCode.UNIMPLEMENTED
                assert error.details()

    run(scenario)


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        (("x-mell-model", "gpt"), grpc.StatusCode.NOT_FOUND),
        (("x-mell-tenant", ""), grpc.StatusCode.INVALID_ARGUMENT),
        (("x-mell-tenant", "a b"), grpc.StatusCode.INVALID_ARGUMENT),
        (("x-mell-tenant", "a" * 129), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_bad_metadata_is_refused(
    metadata: tuple[str, str], code: grpc.StatusCode
) -> None:
    async def scenario() -> None:
        async with serving() as s:
            error = await refusal(s, ids_request(1), metadata=(metadata,))
            assert error.code() == code
            assert "'letters'" in error.details() or fields_of(error)

    run(scenario)


def test_malformed_bytes_are_an_invalid_argument() -> None:
    async def scenario() -> None:
        async with serving() as s:
            path = "/vllm.grpc.engine.VllmEngine/"
            stream = s.channel.unary_stream(path + "Generate")(b"\xff\xff\xff")
            bad_utf8 = s.channel.unary_stream(path + "Generate")(b"\x1a\x01\xff")
            unary = s.channel.unary_unary(path + "Abort")(b"\xff")
            for call in (stream.read(), bad_utf8.read(), unary):
                error = await error_of(call)
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
                assert "vllm.grpc.engine." in error.details()
                assert fields_of(error) == ["message"]

    run(scenario)


def test_a_message_above_four_mebibytes_is_refused() -> None:
    async def scenario() -> None:
        async with serving() as s:
            request = pb.GenerateRequest(text="a" * (5 << 20))
            error = await refusal(s, request)
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    run(scenario)


def test_a_request_id_in_flight_is_refused_and_is_free_afterwards() -> None:
    async def scenario() -> None:
        async with serving(is_manual=True) as s:
            request = ids_request(1, request_id="r", max_tokens=1)
            first = asyncio.ensure_future(s.collect(request))
            await s.until(lambda: len(s.engine.submits) == 1)
            error = await error_of(s.collect(request))
            assert error.code() == grpc.StatusCode.ALREADY_EXISTS
            s.engine.step()
            assert (await first)[-1].complete.finish_reason == "length"
            again = asyncio.ensure_future(s.collect(request))
            await s.until(lambda: len(s.engine.submits) == 2)
            s.engine.step()
            assert len(await again) == 2

    run(scenario)


def test_a_full_server_says_when_to_come_back() -> None:
    async def scenario() -> None:
        async with serving(is_manual=True, max_open=1) as s:
            first = s.stub.Generate(ids_request(1))
            await s.until(lambda: len(s.engine.submits) == 1)
            error = await error_of(s.collect(ids_request(1)))
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert retry_s_of(error) == 1.0
            first.cancel()

    run(scenario)


def test_without_a_tokenizer_text_and_stop_strings_are_refused() -> None:
    async def scenario() -> None:
        async with serving() as s:
            error = await refusal(s, pb.GenerateRequest(text="a"))
            assert fields_of(error) == ["prompt"]
            error = await refusal(s, ids_request(1, stop=["a"]))
            assert fields_of(error) == ["stop"]
            call = s.stub.GetTokenizer(common_pb2.GetTokenizerRequest())
            error = await error_of(call.read())
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION

    run(scenario)


def test_what_the_engine_alone_can_refuse_is_named_too() -> None:
    async def scenario() -> None:
        async with serving() as s:
            s.engine.fail_with[5] = Finished(
                handle=Handle(1),
                reason=FinishReason.ERROR,
                field="prompt",
                message="prompt needs 99 pages and there are 9",
            )
            error = await error_of(s.collect(ids_request(5)))
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert error.details() == "prompt needs 99 pages and there are 9"
            assert fields_of(error) == ["prompt"]

    run(scenario)


def test_a_failure_inside_is_opaque_and_its_cause_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with serving() as s:
            s.engine.fail_with[5] = Finished(
                handle=Handle(1), reason=FinishReason.ERROR, message="secret cause"
            )
            error = await error_of(s.collect(ids_request(5)))
            assert error.code() == grpc.StatusCode.INTERNAL
            assert "secret" not in error.details()
            error_id = error.details().split()[-1]
            assert error_id in caplog.text
            assert "secret cause" in caplog.text
            assert len(await s.collect(ids_request(1, max_tokens=1))) == 2

    run(scenario)


def test_good_streams_do_not_notice_bad_requests(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as s:
            good = [s.collect(ids_request(1, max_tokens=900)) for _ in range(8)]
            answers = asyncio.gather(*good)
            for _ in range(50):
                await error_of(s.collect(ids_request(99, temperature=NAN)))
            for responses in await answers:
                ids = list(responses[-1].complete.output_ids)
                assert ids == [1, 2, 4, 8, 16] * 180

    run(scenario)

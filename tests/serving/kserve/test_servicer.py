"""KServe's protocol against a real server with an engine one can do in one's head."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mell_jax.serving.proto import open_inference_pb2 as pb
from mell_jax.serving.security.config import SecurityConfig
from tests.serving.harness import error_of, run, serving
from tests.serving.kserve.asking import ask, is_final, stub_of, texts_of


def test_a_live_and_ready_server_says_so_of_itself_and_its_model(
    letters_dir: Path,
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            stub = stub_of(harness.channel)
            assert (await stub.ServerLive(pb.ServerLiveRequest())).live
            assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
            known = {
                ("letters", ""): True,
                ("letters", "1"): True,
                ("letters", "2"): False,
                ("other", ""): False,
            }
            told = {}
            for name, version in known:
                asked = pb.ModelReadyRequest(name=name, version=version)
                told[name, version] = (await stub.ModelReady(asked)).ready
            assert told == known

    run(scenario)


def test_metadata_name_the_tensors(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            stub = stub_of(harness.channel)
            server = await stub.ServerMetadata(pb.ServerMetadataRequest())
            assert server.name == "mell_jax"
            assert "statistics" in server.extensions
            model = await stub.ModelMetadata(pb.ModelMetadataRequest(name="letters"))
            assert model.versions == ["1"]
            assert [(t.name, t.datatype) for t in model.inputs[:2]] == [
                ("text_input", "BYTES"),
                ("sampling_parameters", "BYTES"),
            ]
            assert model.outputs[0].name == "text_output"
            config = await stub.ModelConfig(pb.ModelConfigRequest(name="letters"))
            assert config.config.model_transaction_policy.decoupled
            assert [t.optional for t in config.config.input[:2]] == [False, True]
            assert config.config.input[2].data_type == pb.TYPE_BOOL

    run(scenario)


def test_a_prompt_gets_its_text(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            stub = stub_of(harness.channel)
            answer = await stub.ModelInfer(ask("a", id="mine", model_name="letters"))
            assert texts_of(answer) == ["abdhp"]
            assert answer.id == "mine"
            assert (answer.model_name, answer.model_version) == ("letters", "1")
            assert [list(output.shape) for output in answer.outputs] == [[1]]
            assert "weight_version" not in answer.parameters, "nobody told"
            harness.engine.version = "step-7"
            answer = await stub.ModelInfer(ask("a", id="mine", model_name="letters"))
            assert answer.parameters["weight_version"].string_param == "step-7"
            await harness.idle()

    run(scenario)


def test_other_outputs_come_when_they_are_asked_for(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            stub = stub_of(harness.channel)
            request = ask(
                "ab",
                sampling={"temperature": "0.0", "max_tokens": "3", "n": 2},
                flags={"return_finish_reason": True, "exclude_input_in_output": False},
            )
            answer = await stub.ModelInfer(request)
            assert texts_of(answer) == ["abcfl", "abcfl"]
            assert texts_of(answer, "finish_reason") == ["length", "length"]
            request = ask("ab")
            request.outputs.add(name="num_input_tokens")
            request.outputs.add(name="num_output_tokens")
            answer = await stub.ModelInfer(request)
            assert list(answer.raw_output_contents) == [b"\2\0\0\0", b"\5\0\0\0"]
            await harness.idle()

    run(scenario)


def test_raw_contents_and_two_dimensions_are_understood(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            request = pb.ModelInferRequest(
                raw_input_contents=[b"\1\0\0\0c", b"\0", b'\x10\0\0\0{"max_tokens":3}']
            )
            for name, kind in (
                ("text_input", "BYTES"),
                ("stream", "BOOL"),
                ("sampling_parameters", "BYTES"),
            ):
                request.inputs.add(name=name, datatype=kind, shape=[1, 1])
            request.parameters["temperature"].double_param = 0.0
            answer = await stub_of(harness.channel).ModelInfer(request)
            assert texts_of(answer) == ["cfl"]
            assert list(answer.outputs[0].shape) == [1, 1]

    run(scenario)


def test_parameters_of_the_request_sample_as_well(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            request = ask("a", sampling="")
            request.parameters["temperature"].double_param = 0.0
            request.parameters["max_tokens"].int64_param = 9
            request.parameters["stop"].string_param = "h"
            request.parameters["seed"].uint64_param = 7
            request.parameters["ignore_eos"].bool_param = True
            answer = await stub_of(harness.channel).ModelInfer(request)
            assert texts_of(answer) == ["abd"]
            (submit,) = harness.engine.submits
            assert (submit.params.seed, submit.params.ignore_eos) == (7, True)
            await harness.idle()

    run(scenario)


def test_a_stream_tells_the_text_as_it_comes(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, is_manual=True) as harness:
            call = stub_of(harness.channel).ModelStreamInfer()
            await call.write(ask("a", id="7", flags={"return_finish_reason": True}))
            await harness.until(lambda: bool(harness.engine.submits))
            said = []
            for _ in range(5):
                harness.engine.step()
                said.append(await call.read())
            texts = [texts_of(each.infer_response) for each in said]
            assert texts == [["a"], ["b"], ["d"], ["h"], ["p"]]
            assert [is_final(each) for each in said] == [False] * 4 + [True]
            assert {each.infer_response.id for each in said} == {"7"}
            reasons = [texts_of(e.infer_response, "finish_reason") for e in said]
            assert reasons == [[""]] * 4 + [["length"]]
            await call.done_writing()
            assert await call.read() == grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK

    run(scenario)


def test_requests_of_one_stream_go_on_side_by_side(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, is_manual=True) as harness:
            call = stub_of(harness.channel).ModelStreamInfer()
            await call.write(ask("a", id="first"))
            await call.write(ask("c", id="second"))
            await call.write(ask("c", id="whole", flags={"stream": False}))
            await call.write(ask("a", id="first"))  # an id may come twice
            await harness.until(lambda: len(harness.engine.submits) == 4)
            await call.done_writing()
            for _ in range(5):
                harness.engine.step()
            texts = {"first": "", "second": "", "whole": ""}
            finals = dict.fromkeys(texts, 0)
            async for each in call:
                texts[each.infer_response.id] += "".join(texts_of(each.infer_response))
                finals[each.infer_response.id] += is_final(each)
            assert sorted(texts["first"]) == sorted("abdhpabdhp")
            assert (texts["second"], texts["whole"]) == ("cflxq", "cflxq")
            assert finals == {"first": 2, "second": 1, "whole": 1}
            await harness.idle()

    run(scenario)


def test_a_request_of_a_stream_fails_alone(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            call = stub_of(harness.channel).ModelStreamInfer()
            await call.write(ask("a", id="bad", sampling={"top_p": 7}))
            failed = await call.read()
            assert failed.error_message == (
                "[request id: bad] top_p must be in (0, 1], got 7.0"
            )
            assert failed.infer_response.id == "bad"
            status = failed.infer_response.parameters["status"].string_param
            assert status == "INVALID_ARGUMENT"
            assert is_final(failed)
            await call.write(ask("a", model_name="none"))
            failed = await call.read()
            status = failed.infer_response.parameters["status"].string_param
            assert status == "NOT_FOUND"
            for refused in (
                ask("a", sampling={"n": 2}),
                ask("a", flags={"exclude_input_in_output": False}),
            ):
                await call.write(refused)
                assert (await call.read()).error_message
            await call.write(ask("a", id="good", flags={"stream": False}))
            good = await call.read()
            assert (good.error_message, texts_of(good.infer_response)) == (
                "",
                ["abdhp"],
            )
            await call.done_writing()
            assert await call.read() == grpc.aio.EOF
            await harness.idle()

    run(scenario)


@pytest.mark.parametrize("stops_reading", [False, True])
def test_a_cancelled_stream_frees_all_of_its_requests(
    letters_dir: Path, stops_reading: bool
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, is_manual=True) as harness:
            call = stub_of(harness.channel).ModelStreamInfer()
            endless = {"max_tokens": 900, "temperature": 0.0}
            for _ in range(20):
                await call.write(ask("a", sampling=endless))
            await harness.until(lambda: len(harness.engine.submits) == 20)
            harness.engine.step()
            if not stops_reading:
                await call.read()
            call.cancel()
            await harness.until(lambda: len(set(harness.engine.aborts)) == 20)
            harness.engine.step()
            await harness.idle()

    run(scenario)


def test_bytes_that_are_no_message_end_the_stream_after_what_came_before(
    letters_dir: Path,
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            call = harness.channel.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer"
            )()
            await call.write(ask("a", flags={"stream": False}).SerializeToString())
            await call.write(b"\xff\xff")
            answer = pb.ModelStreamInferResponse.FromString(await call.read())
            assert texts_of(answer.infer_response) == ["abdhp"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            await harness.idle()

    run(scenario)


def test_the_repository_lists_what_is_served_and_changes_nothing(
    letters_dir: Path,
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            stub = stub_of(harness.channel)
            index = await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
            (model,) = index.models
            assert (model.name, model.version, model.state) == ("letters", "1", "READY")
            load, unload = (
                pb.RepositoryModelLoadRequest,
                pb.RepositoryModelUnloadRequest,
            )
            await stub.RepositoryModelLoad(load(model_name="letters"))
            with_config = load(model_name="letters")
            with_config.parameters["config"].string_param = "{}"
            other_index = pb.RepositoryIndexRequest(repository_name="x")
            refused = (
                stub.RepositoryModelLoad(load(model_name="x")),
                stub.RepositoryModelLoad(with_config),
                stub.RepositoryModelLoad(load(repository_name="x")),
                stub.RepositoryModelUnload(unload(model_name="x")),
                stub.RepositoryModelUnload(unload(model_name="letters")),
                stub.RepositoryIndex(other_index),
            )
            assert [(await error_of(call)).code().name for call in refused] == [
                "NOT_FOUND",
                "UNIMPLEMENTED",
                "UNIMPLEMENTED",
                "NOT_FOUND",
                "FAILED_PRECONDITION",
                "UNIMPLEMENTED",
            ]
            harness.server._servicer.drain()
            index = await stub.RepositoryIndex(pb.RepositoryIndexRequest())
            assert index.models[0].state == "UNAVAILABLE"
            assert index.models[0].reason == "shutting down"
            index = await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
            assert not index.models

    run(scenario)


def test_statistics_count_what_was_answered(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            stub = stub_of(harness.channel)
            for _ in range(3):
                await stub.ModelInfer(ask("a"))
            for name in ("", "letters"):
                asked = pb.ModelStatisticsRequest(name=name)
                (stats,) = (await stub.ModelStatistics(asked)).model_stats
                assert (stats.name, stats.inference_count) == ("letters", 3)
                assert stats.inference_stats.success.count == 3

    run(scenario)


def test_a_server_that_drains_is_not_ready_and_takes_nothing(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            stub = stub_of(harness.channel)
            harness.server._servicer.drain()
            assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
            asked = pb.ModelReadyRequest(name="letters")
            assert not (await stub.ModelReady(asked)).ready
            assert (await stub.ServerLive(pb.ServerLiveRequest())).live
            error = await error_of(stub.ModelInfer(ask("a")))
            assert error.code() == grpc.StatusCode.UNAVAILABLE

    run(scenario)


def test_tenants_keep_their_cached_prompts_apart(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            stub = stub_of(harness.channel)
            await stub.ModelInfer(ask("a"), metadata=(("x-mell-tenant", "acme"),))
            (submit,) = harness.engine.submits
            assert submit.salt == b"acme"

    run(scenario)


def test_health_and_reflection_know_the_service(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            health = health_pb2_grpc.HealthStub(harness.channel)
            name = "inference.GRPCInferenceService"
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            reflection = reflection_pb2_grpc.ServerReflectionStub(harness.channel)

            async def asked() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
                yield reflection_pb2.ServerReflectionRequest(list_services="")

            async for listed in reflection.ServerReflectionInfo(asked()):
                services = listed.list_services_response.service
                assert name in [service.name for service in services]

    run(scenario)


def test_where_tokens_are_needed_every_call_needs_one(
    letters_dir: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.json"
    holder = {"token": "customer-0123456789", "tenant": "acme"}
    tokens.write_text(json.dumps({"tokens": [holder]}))

    async def scenario() -> None:
        security = SecurityConfig(tokens_file=str(tokens))
        async with serving(directory=letters_dir, security=security) as harness:
            stub = stub_of(harness.channel)
            refused = [
                await error_of(stub.ServerReady(pb.ServerReadyRequest())),
                await error_of(stub.ModelInfer(ask("a"))),
                await error_of(stub.ModelStreamInfer(iter([ask("a")])).read()),
            ]
            codes = {error.code() for error in refused}
            assert codes == {grpc.StatusCode.UNAUTHENTICATED}
            metadata = (("authorization", "Bearer customer-0123456789"),)
            answer = await stub.ModelInfer(ask("a"), metadata=metadata)
            assert texts_of(answer) == ["abdhp"]
            (submit,) = harness.engine.submits
            assert submit.salt == b"acme"

    run(scenario)

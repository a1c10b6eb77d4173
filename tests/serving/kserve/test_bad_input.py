"""What a hostile client may send, and that others do not notice."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.kserve.asking import ask_of
from mell_jax.serving.kserve.sampling import params_of
from mell_jax.serving.kserve.tensors import read_inputs
from mell_jax.serving.proto import open_inference_pb2 as pb
from tests.serving.harness import error_of, run, serving
from tests.serving.kserve.asking import add_text, ask, stub_of, texts_of


def with_tensor(
    name: str, *, datatype: str = "BYTES", shape: tuple[int, ...] = (1,), **more: Any
) -> pb.ModelInferRequest:
    request = ask("a")
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape, **more)
    tensor.contents.bytes_contents.append(b"1")
    return request


def raw(*parts: bytes, names: tuple[str, ...] = ("text_input",)) -> Any:
    request = pb.ModelInferRequest(raw_input_contents=parts)
    for name in names:
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
    return request


def with_parameter(name: str, **value: Any) -> pb.ModelInferRequest:
    request = ask("a")
    request.parameters[name].CopyFrom(pb.InferParameter(**value))
    return request


def with_outputs(*names: str) -> pb.ModelInferRequest:
    request = ask("a")
    for name in names:
        request.outputs.add(name=name)
    return request


def twice_text() -> pb.ModelInferRequest:
    request = ask("a")
    add_text(request, "text_input", "b")
    return request


def mixed_contents() -> pb.ModelInferRequest:
    request = ask("a")
    request.raw_input_contents.extend([b"\1\0\0\0a", b"\2\0\0\0{}"])
    return request


def no_contents() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    return request


BAD = {
    "nothing at all": (pb.ModelInferRequest(), "text_input"),
    "an empty prompt": (ask(""), "prompt"),
    "no contents": (no_contents(), "text_input"),
    "a prompt longer than the context": (ask("a" * 1001), "prompt"),
    "a prompt of a megabyte": (ask("a" * 2**20), "prompt"),
    "an unknown tensor": (with_tensor("image"), "inputs"),
    "a tensor twice": (twice_text(), "text_input"),
    "a flag as text": (with_tensor("stream"), "stream"),
    "a batch of prompts": (
        with_tensor("stream", datatype="BOOL", shape=(2,)),
        "stream",
    ),
    "no shape": (with_tensor("stream", datatype="BOOL", shape=()), "stream"),
    "a negative shape": (
        with_tensor("stream", datatype="BOOL", shape=(-1, -1)),
        "stream",
    ),
    "three dimensions": (
        with_tensor("stream", datatype="BOOL", shape=(1, 1, 1)),
        "stream",
    ),
    "a thousand dimensions": (
        with_tensor("stream", datatype="BOOL", shape=(2**62,) * 1000),
        "stream",
    ),
    "parameters of a tensor": (
        with_tensor(
            "stream",
            datatype="BOOL",
            parameters={"shared_memory_region": pb.InferParameter(string_param="x")},
        ),
        "stream",
    ),
    "a flag without a value": (with_tensor("stream", datatype="BOOL"), "stream"),
    "raw contents of some": (
        raw(b"\1\0\0\0a", names=("text_input", "sampling_parameters")),
        "raw_input_contents",
    ),
    "more raw contents than inputs": (raw(b"", b""), "raw_input_contents"),
    "raw and typed contents": (mixed_contents(), "text_input"),
    "a raw string without a length": (raw(b"ab"), "text_input"),
    "a raw string that is too short": (raw(b"\7\0\0\0ab"), "text_input"),
    "two raw strings": (raw(b"\1\0\0\0a\1\0\0\0b"), "text_input"),
    "a raw string of four gigabytes": (raw(b"\xff\xff\xff\xff"), "text_input"),
    "invalid UTF-8": (raw(b"\2\0\0\0\xff\xfe"), "text_input"),
    "a lone surrogate": (raw(b"\3\0\0\0\xed\xa0\x80"), "text_input"),
    "a streamed unary call": (ask("a", flags={"stream": True}), "stream"),
    "an id with control characters": (ask("a", id="a\nb"), "request_id"),
    "an id of a megabyte": (ask("a", id="x" * 2**20), "request_id"),
    "an unknown output": (with_outputs("logits"), "outputs"),
    "an output twice": (with_outputs("text_output", "text_output"), "outputs"),
    "many outputs": (with_outputs(*["text_output"] * 10_000), "outputs"),
    "an unknown parameter": (
        with_parameter("priority", uint64_param=1),
        "parameters",
    ),
    "a parameter with a long name": (
        with_parameter("x" * 60_000, uint64_param=1),
        "parameters",
    ),
    "a parameter with a long name of wide letters": (
        with_parameter("\U0001f600" * 15_000, uint64_param=1),
        "parameters",
    ),
    "a parameter without a value": (with_parameter("stream"), "stream"),
    "a parameter given twice": (
        with_parameter("max_tokens", int64_param=1),
        "parameters",
    ),
    "a list as a parameter": (
        with_parameter("stop_token_ids", string_param="[1]"),
        "stop_token_ids",
    ),
}
BAD |= {
    f"sampling parameters {text[:40]}": (ask("a", sampling=text), field)
    for text, field in {
        "{": "sampling_parameters",
        "[1]": "sampling_parameters",
        "7": "sampling_parameters",
        "[" * 60_000: "sampling_parameters",
        '{"a":' * 10_000: "sampling_parameters",
        " " * 70_000 + "{}": "sampling_parameters",
        '{"best_of": 4}': "sampling_parameters",
        '{"' + "x" * 60_000 + '": 4}': "sampling_parameters",
        '{"\\ud800": 4}': "sampling_parameters",
        '{"temperature": NaN}': "temperature",
        '{"temperature": "nan"}': "temperature",
        '{"temperature": -1}': "temperature",
        '{"temperature": 1e999}': "temperature",
        '{"temperature": true}': "temperature",
        '{"temperature": [1]}': "temperature",
        '{"temperature": 1' + "0" * 400 + "}": "temperature",
        '{"top_p": 0}': "top_p",
        '{"top_k": -2}': "top_k",
        '{"top_k": 1.5}': "top_k",
        '{"n": 17}': "n",
        '{"max_tokens": 0}': "max_tokens",
        '{"max_tokens": true}': "max_tokens",
        '{"max_tokens": "many"}': "max_tokens",
        '{"max_tokens": 100, "min_tokens": 101}': "min_tokens",
        '{"seed": 9223372036854775808}': "seed",
        '{"seed": "' + "9" * 10_000 + '"}': "seed",
        '{"stop": ""}': "stop",
        '{"stop": [1]}': "stop",
        '{"stop_token_ids": 1}': "stop_token_ids",
        '{"stop_token_ids": [31]}': "stop_token_ids",
        '{"logit_bias": {"99": 1}}': "logit_bias",
        '{"logit_bias": {"x": 1}}': "logit_bias",
        '{"logit_bias": [1]}': "logit_bias",
        '{"ignore_eos": 1}': "ignore_eos",
    }.items()
}


def test_every_row_of_bad_input_is_refused_by_name_while_others_go_on(
    letters_dir: Path,
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            stub = stub_of(harness.channel)
            others = [
                stub.ModelInfer(ask(sampling={"temperature": 0, "max_tokens": 900}))
                for _ in range(8)
            ]
            for name, (request, field) in BAD.items():
                error = await error_of(stub.ModelInfer(request))
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, name
                status = rpc_status.from_call(error)
                assert status is not None, name
                detail = error_details_pb2.BadRequest()
                assert status.details[0].Unpack(detail), name
                assert detail.field_violations[0].field == field, name
                assert len(error.details()) < 1000, name
            for other in others:
                assert texts_of(await other) == ["abdhp" * 180]
            await harness.idle()

    run(scenario)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (ask("a", model_name="other"), grpc.StatusCode.NOT_FOUND),
        (ask("a", model_version="2"), grpc.StatusCode.NOT_FOUND),
        (ask("a", model_version="../1"), grpc.StatusCode.NOT_FOUND),
        (ask("a" * 5 * 2**20), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_other_refusals_have_their_own_codes(
    letters_dir: Path, request_: pb.ModelInferRequest, code: grpc.StatusCode
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            stub = stub_of(harness.channel)
            error = await error_of(stub.ModelInfer(request_))
            assert error.code() == code
            await harness.idle()

    run(scenario)


def test_bytes_that_are_no_message_are_the_callers_mistake(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir) as harness:
            for method in ("ModelInfer", "ServerReady", "ModelMetadata"):
                call = harness.channel.unary_unary(
                    f"/inference.GRPCInferenceService/{method}"
                )
                error = await error_of(call(b"\xff\xff"))
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            call = harness.channel.unary_unary(
                "/inference.GRPCInferenceService/SystemSharedMemoryStatus"
            )
            error = await error_of(call(b""))
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED

    run(scenario)


tensors = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["text_input", "sampling_parameters", "stream", "x", ""]),
    datatype=st.sampled_from(["BYTES", "BOOL", "FP32", ""]),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.just(1), max_size=3),
    contents=st.none()
    | st.builds(
        pb.InferTensorContents,
        bytes_contents=st.lists(st.binary(max_size=20), max_size=2),
        bool_contents=st.lists(st.booleans(), max_size=2),
    ),
)
parameters = st.builds(pb.InferParameter, string_param=st.text(max_size=5)) | st.builds(
    pb.InferParameter, double_param=st.floats()
)
requests = st.builds(
    pb.ModelInferRequest,
    id=st.text(max_size=5),
    model_version=st.sampled_from(["", "1"]),
    inputs=st.lists(tensors, max_size=4),
    raw_input_contents=st.lists(st.binary(max_size=12), max_size=4),
    parameters=st.dictionaries(
        st.sampled_from(["temperature", "stop", "stream", "n", "é"]), parameters
    ),
)

# The log has the field at fault, so it is never a client's word.
OUR_WORDS = {
    *("inputs", "raw_input_contents", "outputs", "parameters", "request_id"),
    *("text_input", "sampling_parameters", "stream", "exclude_input_in_output"),
    *("temperature", "top_k", "stop", "seed", "logit_bias", "n", "ignore_eos"),
}


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(requests)
def test_any_message_is_understood_or_refused(request: pb.ModelInferRequest) -> None:
    try:
        ask = ask_of(request)
    except InvalidRequestError as error:
        assert error.field in OUR_WORDS
        return
    assert ask.outputs


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
    ),
    max_leaves=5,
)


@settings(max_examples=500)
@given(
    st.dictionaries(
        st.sampled_from(
            ["temperature", "top_k", "stop", "seed", "logit_bias", "n", "ignore_eos"]
        )
        | st.text(max_size=5),
        json_values,
    )
)
def test_any_json_makes_parameters_or_is_refused(given_values: dict[str, Any]) -> None:
    try:
        params = params_of(json.dumps(given_values), others={})
    except InvalidRequestError as error:
        assert error.field in OUR_WORDS
        return
    assert 0.0 <= params.temperature <= 100.0


def test_a_string_is_read_as_it_was_packed() -> None:
    assert read_inputs(raw("ähm".encode().join([b"\4\0\0\0", b""]))) == {
        "text_input": "ähm"
    }

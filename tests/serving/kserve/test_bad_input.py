"""What a hostile client may send, and that others do not notice."""

import inspect
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.serving.kserve.asking import inference_of
from mell_jax.serving.kserve.sampling import params_of
from mell_jax.serving.kserve.tensors import read_inputs
from mell_jax.serving.proto import open_inference_pb2 as pb
from tests.serving.harness import error_of, run, serving
from tests.serving.kserve.asking import ask, stub_of, texts_of
from tests.serving.kserve.bad_requests import BAD, raw


async def refusal_of(call: Awaitable[Any]) -> tuple[str, str]:
    """The code and the field of a call's error, which is never long."""
    error = await error_of(call)
    status, detail = rpc_status.from_call(error), error_details_pb2.BadRequest()
    assert len(error.details() or "") < 1000
    if status is None or not status.details[0].Unpack(detail):
        return error.code().name, "no field is named"
    return error.code().name, detail.field_violations[0].field


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
            told = {
                name: await refusal_of(stub.ModelInfer(request))
                for name, (request, _) in BAD.items()
            }
            assert told == {name: ("INVALID_ARGUMENT", BAD[name][1]) for name in BAD}
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
    *inspect.signature(SamplingParams).parameters,
}


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(requests)
def test_any_message_is_understood_or_refused(request: pb.ModelInferRequest) -> None:
    try:
        wanted = inference_of(request, defaults=SamplingParams())
    except InvalidRequestError as error:
        assert error.field in OUR_WORDS
        return
    assert wanted.outputs


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
        st.sampled_from(list(inspect.signature(SamplingParams).parameters))
        | st.text(max_size=5),
        json_values,
    )
)
def test_any_json_makes_parameters_or_is_refused(given_values: dict[str, Any]) -> None:
    try:
        params = params_of(
            json.dumps(given_values), others={}, defaults=SamplingParams()
        )
    except InvalidRequestError as error:
        assert error.field in OUR_WORDS
        return
    assert 0.0 <= params.temperature <= 100.0


def test_a_string_is_read_as_it_was_packed() -> None:
    assert read_inputs(raw("ähm".encode().join([b"\4\0\0\0", b""]))) == {
        "text_input": "ähm"
    }

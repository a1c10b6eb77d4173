"""Everything that clients may send, to a real server that goes on all the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from smg_grpc_proto import vllm_engine_pb2 as pb

from mell_jax.serving.proto import open_inference_pb2 as inference
from tests.serving import bad_input, wild
from tests.serving.kserve.asking import is_final
from tests.serving.kserve.bad_requests import BAD
from tests.serving.siege import Siege, code_of

INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNDERSTOOD = {
    grpc.StatusCode.OK,
    INVALID,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
}
how_many = pytest.mark.parametrize(
    "count", [50, pytest.param(2000, marks=pytest.mark.slow)]
)


@pytest.fixture(scope="module")
def siege(compiled_dir: Path) -> Iterator[Siege]:
    running = Siege(compiled_dir)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def good_streams_go_on(siege: Siege) -> Iterator[None]:
    with siege.good_streams():
        yield


def many(count: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, suppress_health_check=checks)


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("/v1/completions", bad_input.COMPLETIONS),
        ("/v1/chat/completions", bad_input.CHATS),
    ],
)
def test_bodies(siege: Siege, path: str, rows: dict[str, tuple[bytes, int]]) -> None:
    for name, (body, status) in rows.items():
        if name == "empty content":
            continue  # the template here has more than that
        answer = siege.http.post(path, content=body)
        assert answer.status_code == status, (name, answer.text[:300])


def test_headers(siege: Siege) -> None:
    body = b'{"prompt": "a", "max_tokens": 1}'
    for name, (headers, status) in bad_input.HEADERS.items():
        answer = siege.http.post("/v1/completions", content=body, headers=headers)
        assert answer.status_code == status, (name, answer.text[:300])


def test_calls(siege: Siege) -> None:
    for name, (call, code) in bad_input.CALLS.items():
        assert code_of(siege.server.stub.Generate(call)) == code, name


def test_requests_of_kserve(siege: Siege) -> None:
    for name, (request, _) in BAD.items():
        call = siege.kserve.ModelInfer.future(request)
        assert call.code() == INVALID, (name, call.details())
    requests = [request for name, (request, _) in BAD.items() if "streamed" not in name]
    answers = list(siege.kserve.ModelStreamInfer(iter(requests)))
    assert sum(map(is_final, answers)) == len(requests)
    assert all(answer.error_message for answer in answers)


@how_many
def test_any_call_is_answered(siege: Siege, count: int) -> None:
    @many(count)
    @given(request=wild.GENERATES, metadata=wild.METADATA)
    def send(request: pb.GenerateRequest, metadata: list[tuple[str, str]]) -> None:
        call = siege.server.stub.Generate(request, metadata=metadata, timeout=60)
        assert code_of(call) in UNDERSTOOD, call.details()

    send()


@how_many
def test_any_request_of_kserve_is_answered(siege: Siege, count: int) -> None:
    @many(count)
    @given(request=wild.INFERS, metadata=wild.METADATA)
    def send(
        request: inference.ModelInferRequest, metadata: list[tuple[str, str]]
    ) -> None:
        call = siege.kserve.ModelInfer.future(request, metadata=metadata, timeout=60)
        assert call.code() in UNDERSTOOD, call.details()

    send()


@how_many
def test_any_conversation_of_kserve_is_answered(siege: Siege, count: int) -> None:
    @many(count)
    @given(requests=wild.CONVERSATIONS)
    def send(requests: list[inference.ModelInferRequest]) -> None:
        call = siege.kserve.ModelStreamInfer(iter(requests), timeout=60)
        assert sum(map(is_final, call)) == len(requests)
        assert call.code() == grpc.StatusCode.OK

    send()


@how_many
@pytest.mark.parametrize(
    ("path", "bodies"),
    [
        ("/v1/completions", wild.COMPLETIONS),
        ("/v1/chat/completions", wild.CHATS),
    ],
)
def test_any_body_is_answered(siege: Siege, path: str, bodies: Any, count: int) -> None:
    @many(count)
    @given(body=bodies, headers=wild.METADATA)
    def send(body: bytes, headers: list[tuple[str, str]]) -> None:
        answer = siege.http.post(path, content=body, headers=headers)
        assert answer.status_code in {200, 400, 404}, answer.text[:300]
        assert 'data: {"error"' not in answer.text

    send()


@how_many
def test_any_bytes_are_answered(siege: Siege, count: int) -> None:
    calls = [
        siege.server.channel.unary_stream(f"/{method}")
        for method in (
            "vllm.grpc.engine.VllmEngine/Generate",
            "vllm.grpc.engine.VllmEngine/Abort",
            "inference.GRPCInferenceService/ModelInfer",
        )
    ]

    @many(count)
    @given(data=st.binary(max_size=60))
    def send(data: bytes) -> None:
        for call in calls:
            assert code_of(call(data, timeout=60)) in UNDERSTOOD
        answer = siege.http.post("/v1/completions", content=data)
        assert answer.status_code == 400

    send()

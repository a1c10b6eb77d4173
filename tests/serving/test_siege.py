"""Everything that clients may send, to a real server that goes on all the same."""

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.serving.proto import open_inference_pb2 as inference
from tests.serving import bad_input, raw_http2, wild
from tests.serving.kserve.asking import is_final
from tests.serving.kserve.bad_requests import BAD
from tests.serving.running import ids_of, request
from tests.serving.siege import Siege, code_of

GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNDERSTOOD = {
    grpc.StatusCode.OK,
    INVALID,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
}
how_many = pytest.mark.parametrize(
    "count", [50, pytest.param(1000, marks=pytest.mark.slow)]
)


@pytest.fixture(scope="module")
def siege(compiled_dir: Path) -> Iterator[Siege]:
    running = Siege(compiled_dir)
    yield running
    running.close()


@pytest.fixture(scope="class", autouse=True)
def good_streams_go_on(siege: Siege) -> Iterator[None]:
    """Eight of them during each test, or during all rows of a table, which is a class.

    To see them go on takes longer than a row does.
    """
    with siege.good_streams():
        yield


def many(count: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, suppress_health_check=checks)


class TestCompletions:
    @pytest.mark.parametrize("row", bad_input.COMPLETIONS)
    def test_row(self, siege: Siege, row: str) -> None:
        body, status = bad_input.COMPLETIONS[row]
        answer = siege.http.post("/v1/completions", content=body)
        assert answer.status_code == status, answer.text[:300]


class TestChats:
    @pytest.mark.parametrize(
        "row",
        # The template here has more in it than an empty content.
        [row for row in bad_input.CHATS if row != "empty content"],
    )
    def test_row(self, siege: Siege, row: str) -> None:
        body, status = bad_input.CHATS[row]
        answer = siege.http.post("/v1/chat/completions", content=body)
        assert answer.status_code == status, answer.text[:300]


class TestHeaders:
    @pytest.mark.parametrize("row", bad_input.HEADERS)
    def test_row(self, siege: Siege, row: str) -> None:
        headers, status = bad_input.HEADERS[row]
        body = b'{"prompt": "a", "max_tokens": 1}'
        answer = siege.http.post("/v1/completions", content=body, headers=headers)
        assert answer.status_code == status, answer.text[:300]


class TestCalls:
    @pytest.mark.parametrize("row", bad_input.CALLS)
    def test_row(self, siege: Siege, row: str) -> None:
        call, code = bad_input.CALLS[row]
        assert code_of(siege.server.stub.Generate(call)) == code


class TestRequestsOfKserve:
    @pytest.mark.parametrize("row", BAD)
    def test_row(self, siege: Siege, row: str) -> None:
        call = siege.kserve.ModelInfer.future(BAD[row][0])
        assert call.code() == INVALID, call.details()

    def test_all_of_them_on_one_stream(self, siege: Siege) -> None:
        requests = [bad for name, (bad, _) in BAD.items() if "streamed" not in name]
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


class TestMethodsThatAreNotThere:
    @pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
    @pytest.mark.parametrize(
        "path",
        [
            "/vllm.grpc.engine.VllmEngine/Explode",
            "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
            "/no.such.Service/Generate",
            "/vllm.grpc.engine.VllmEngine/",
            "/Generate",
        ],
    )
    def test_row(self, siege: Siege, path: str, kind: str) -> None:
        call = getattr(siege.server.channel, kind)(path)
        data = b"" if kind == "unary_stream" else iter([b""])
        assert code_of(call(data)) == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("port", ["address", "http"])
def test_hundreds_of_idle_connections_keep_nobody_out(siege: Siege, port: str) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(300):
            raw = stack.enter_context(raw_http2.connected(getattr(siege.server, port)))
            if number % 3 == 1 and port == "address":
                raw.sendall(raw_http2.HELLO)
            elif number % 3 == 2:
                raw.sendall(b"POST /v1/completions HTTP/1.1\r\n")
        with grpc.insecure_channel(siege.server.address) as channel:
            stub = pb_grpc.VllmEngineStub(channel)
            assert ids_of(stub.Generate(request(max_tokens=5))) == siege.ids[:5]
        answer = httpx2.get(f"http://{siege.server.http}/health")
        assert answer.status_code == 200


LONG = request(max_tokens=200, ignore_eos=True).SerializeToString()


def test_calls_that_are_reset_at_once_leave_nothing(siege: Siege) -> None:
    with raw_http2.connected(siege.server.address) as raw:
        raw.sendall(raw_http2.HELLO)
        for stream in range(1, 1001, 2):
            begun = raw_http2.call(GENERATE, stream=stream, message=LONG)
            raw.sendall(begun + raw_http2.reset(stream))
        last = request(max_tokens=1).SerializeToString()
        raw.sendall(raw_http2.call(GENERATE, stream=1001, message=last))
        frames = raw_http2.read_frames(raw)
        answer = next(each for each in frames if each.kind == raw_http2.DATA)
        assert answer.stream == 1001  # a client that goes on is answered


def test_calls_that_are_reset_after_a_token_leave_nothing(siege: Siege) -> None:
    def aborted() -> float:
        return siege.metric("mell:request_success_total", label="abort")

    before = aborted()
    with raw_http2.connected(siege.server.address) as raw:
        raw.sendall(raw_http2.HELLO)
        frames = raw_http2.read_frames(raw)
        for first in range(1, 401, 16):
            streams = range(first, first + 16, 2)
            for stream in streams:
                raw.sendall(raw_http2.call(GENERATE, stream=stream, message=LONG))
            next(
                each
                for each in frames
                if each.kind == raw_http2.DATA and each.stream in streams
            )
            raw.sendall(b"".join(map(raw_http2.reset, streams)))
    for _ in range(10_000):
        if aborted() >= before + 25:  # at least one of each eight had begun
            return
    raise AssertionError("the calls go on")


def test_who_pings_too_often_is_told_to_calm_down(siege: Siege) -> None:
    ping = raw_http2.frame(raw_http2.PING, body=b"are you?")
    with raw_http2.connected(siege.server.address) as raw:
        raw.sendall(raw_http2.HELLO)
        for _ in range(1000):
            if not raw_http2.send(raw, ping * 10):
                break
        codes = [
            raw_http2.goaway_code(each)
            for each in raw_http2.read_frames(raw)
            if each.kind == raw_http2.GOAWAY
        ]
    assert raw_http2.ENHANCE_YOUR_CALM in codes


CALL = raw_http2.call(GENERATE, stream=1, message=b"\x12\x01a")
BROKEN = {
    "nothing": b"",
    "half a preface": raw_http2.PREFACE[:11],
    "HTTP/1.1": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nabc",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50,
    "a frame that ends early": raw_http2.HELLO + CALL[:20],
    "a call that ends early": raw_http2.HELLO + CALL[:-3],
    "a frame of 16 megabytes": raw_http2.HELLO
    + b"\xff\xff\xff\0\0\0\0\0\1"
    + b"x" * 99,
    "a message of four gigabytes": raw_http2.HELLO
    + CALL.replace(b"\0\0\0\0\3", b"\0\xff\xff\xff\xff"),
    "headers of stream 0": raw_http2.HELLO + raw_http2.frame(raw_http2.HEADERS),
    "a block of no headers": raw_http2.HELLO
    + raw_http2.frame(raw_http2.HEADERS, flags=4, stream=1, body=b"\xff" * 40),
    "data of no stream": raw_http2.HELLO
    + raw_http2.frame(raw_http2.DATA, stream=7, body=b"x" * 40),
    "headers without an end": raw_http2.HELLO
    + raw_http2.frame(raw_http2.HEADERS, stream=1, body=b"\0\1a\1b")
    + raw_http2.frame(9, stream=1, body=b"\0\1a\1b" * 1000) * 100,
    "a window of nothing": raw_http2.HELLO + raw_http2.frame(8, body=b"\0\0\0\0"),
    "settings of odd length": raw_http2.PREFACE + raw_http2.frame(4, body=b"x" * 5),
    "ten thousand settings": raw_http2.PREFACE + raw_http2.frame(4) * 10_000,
    "last words that look like the log": raw_http2.HELLO
    + raw_http2.frame(7, body=b"\0\0\0\1\0\0\0\5\xf1" + b"\n{} or not\n" * 9),
}


def throw(data: bytes, *, address: str) -> None:
    """Sends bytes, no more, and reads until the other side ends, too."""
    with raw_http2.connected(address) as raw, contextlib.suppress(ConnectionError):
        raw.sendall(data)
        try:
            raw.shutdown(socket.SHUT_WR)
        except OSError as error:  # the other side has hung up
            assert error.errno == errno.ENOTCONN, error
        while raw.recv(65536):
            pass


@pytest.mark.parametrize("port", ["address", "http"])
class TestBrokenFrames:
    @pytest.mark.parametrize("row", BROKEN)
    def test_they_harm_nobody(self, siege: Siege, port: str, row: str) -> None:
        throw(BROKEN[row], address=getattr(siege.server, port))


@how_many
def test_garbage_harms_nobody(siege: Siege, count: int) -> None:
    frames = st.builds(
        raw_http2.frame,
        st.integers(0, 12),
        flags=st.integers(0, 255),
        stream=st.integers(0, 5) | st.integers(0, 2**32 - 1),
        body=st.binary(max_size=30),
    )
    starts = st.sampled_from([b"", raw_http2.HELLO, raw_http2.HELLO + CALL])

    @many(count)
    @given(start=starts, parts=st.lists(frames | st.binary(max_size=30), max_size=5))
    def attack(start: bytes, parts: list[bytes]) -> None:
        throw(b"".join([start, *parts]), address=siege.server.address)

    attack()

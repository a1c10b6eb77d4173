"""Bad input through both doors while eight good streams run, which must not notice."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import hypothesis
import hypothesis.strategies as st
import pytest
from smg_grpc_proto import vllm_engine_pb2 as pb

from tests.serving import bad_input
from tests.serving.harness import Harness, ids_request, serving

GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
IDS = [1, 2, 4, 8, 16] * 20
TEXT = "abdhp" * 20


class Live:
    """A server on a thread, under eight streams that begin anew when they end."""

    def __init__(self, directory: Path) -> None:
        self.completed = 0
        self.wrong: list[object] = []
        self._directory = directory
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._is_up.wait(timeout=30)

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        template = self._directory / "chat.jinja"
        template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
        async with serving(
            directory=self._directory, http_port=0, chat_templates=(str(template),)
        ) as s:
            self.harness = s
            streams = [
                asyncio.ensure_future(good(s))
                for _ in range(4)
                for good in (self._good_grpc, self._good_http)
            ]
            self._is_up.set()
            await self._over.wait()
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            await s.idle()

    async def _good_grpc(self, s: Harness) -> None:
        while True:
            parts = await s.collect(ids_request(1, max_tokens=100))
            self._see(list(parts[-1].complete.output_ids), IDS)

    async def _good_http(self, s: Harness) -> None:
        async with httpx2.AsyncClient(timeout=60) as client:
            while True:
                answer = await client.post(
                    f"http://{s.http}/v1/completions",
                    json={"prompt": "a", "max_tokens": 100},
                )
                self._see(answer.json()["choices"][0]["text"], TEXT)

    def _see(self, got: object, wanted: object) -> None:
        self.completed += 1
        if got != wanted:
            self.wrong.append(got)

    def post(self, path: str, body: bytes, **headers: str) -> httpx2.Response:
        headers = {"content-type": "application/json", **headers}
        url = f"http://{self.harness.http}{path}"
        return httpx2.post(url, content=body, headers=headers, timeout=60)

    def call(self, data: bytes, **options: Any) -> grpc.StatusCode:
        """The status of a call with these bytes."""
        with grpc.insecure_channel(self.harness.address) as channel:
            call = channel.unary_stream(GENERATE)(data, **options)
            with contextlib.suppress(grpc.RpcError):
                list(call)
            code: grpc.StatusCode = call.code()
            return code

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def live(letters_dir: Path) -> Iterator[Live]:
    running = Live(letters_dir)
    yield running
    running.close()
    assert running.wrong == []
    assert running.harness.engine.num_live == 0


@pytest.fixture(autouse=True)
def good_streams_go_on(live: Live) -> Iterator[None]:
    before, steps = live.completed, live.harness.engine.num_steps
    yield
    wanted = before + 9  # what was made before the test ends at most eight
    for _ in range(1000):  # streams end many times a second
        if live.completed >= wanted:
            break
        live.post("/v1/completions", b'{"prompt": "a", "max_tokens": 1}')
    assert live.completed >= wanted
    assert live.harness.engine.num_steps > steps
    assert live.wrong == []


def check(answer: httpx2.Response, status: int) -> None:
    assert answer.status_code == status, answer.text[:500]
    if status != 200:
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert 0 < len(error["message"]) < 1000


@pytest.mark.parametrize("row", bad_input.COMPLETIONS)
def test_completions(live: Live, row: str) -> None:
    body, status = bad_input.COMPLETIONS[row]
    check(live.post("/v1/completions", body), status)


@pytest.mark.parametrize("row", bad_input.CHATS)
def test_chats(live: Live, row: str) -> None:
    body, status = bad_input.CHATS[row]
    check(live.post("/v1/chat/completions", body), status)


@pytest.mark.parametrize("row", bad_input.HEADERS)
def test_headers(live: Live, row: str) -> None:
    headers, status = bad_input.HEADERS[row]
    body = b'{"prompt": "a", "max_tokens": 1}'
    answer = live.post("/v1/completions", body, **headers)
    assert answer.status_code == status, answer.text[:500]


def test_a_head_without_end_is_not_read(live: Live) -> None:
    try:
        answer = live.post("/v1/completions", b"{}", **{"x-other": "a" * 2_000_000})
    except httpx2.TransportError:
        return  # the connection was closed while the client still wrote
    assert answer.status_code == 400


@pytest.mark.parametrize("row", bad_input.CALLS)
def test_calls(live: Live, row: str) -> None:
    request, code = bad_input.CALLS[row]
    assert live.call(request.SerializeToString()) == code


def test_a_small_message_that_would_become_a_large_one_is_refused(live: Live) -> None:
    bomb = pb.GenerateRequest(text="a" * 50_000_000).SerializeToString()
    code = live.call(bomb, compression=grpc.Compression.Gzip)
    assert code == grpc.StatusCode.UNIMPLEMENTED


def test_metadata_that_is_too_long_is_refused(live: Live) -> None:
    data = ids_request(1).SerializeToString()
    code = live.call(data, metadata=(("x-other", "a" * 20_000),))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        *(
            "prompt",
            "messages",
            "model",
            "n",
            "stop",
            "stream",
            "seed",
            "echo",
            "top_p",
        ),
        *(
            "logprobs",
            "top_logprobs",
            "logit_bias",
            "max_tokens",
            "min_tokens",
            "top_k",
        ),
        *("temperature", "stop_token_ids", "stream_options", "presence_penalty"),
    ]
)


@hypothesis.settings(max_examples=150)
@hypothesis.given(
    fields=st.dictionaries(FIELDS, JSON, max_size=6), is_chat=st.booleans()
)
def test_any_json_gets_an_answer(
    live: Live, fields: dict[str, Any], is_chat: bool
) -> None:
    good = (
        {"messages": [{"role": "user", "content": "a"}]} if is_chat else {"prompt": "a"}
    )
    body = json.dumps({**good, "max_tokens": 3, **fields}).encode()
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    assert live.post(path, body).status_code in {200, 400, 404}


@hypothesis.settings(max_examples=40)
@hypothesis.given(data=st.binary(max_size=60))
def test_any_bytes_get_an_answer(live: Live, data: bytes) -> None:
    assert live.post("/v1/completions", data).status_code == 400
    assert live.call(data) in {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
    }

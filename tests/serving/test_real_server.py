"""`mell-serve` with the demo model, as a process, over a real socket."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx2
import openai
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

from tests.serving import bad_input
from tests.serving.replaced import wait_replaced

ROOT = Path(__file__).parents[2]
MAX_MODEL_LEN = 256
FLAGS = (
    "--port=0",
    "--http_port=0",
    "--max_rows=16",
    "--decode_rows=16",
    "--token_budget=64",
    f"--max_model_len={MAX_MODEL_LEN}",
    "--kv_pages=200",
)
NAN = float("nan")


class RunningServer:
    """A `mell-serve` process and a channel to it."""

    def __init__(self, cache_dir: Path) -> None:
        template = cache_dir / "template.jinja"
        template.write_text(
            "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
        )
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mell_jax.launch"),
                *(*FLAGS, f"--compilation_cache_dir={cache_dir}"),
                f"--chat_template={template}",
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        match = re.match(r"demo is served at (\S+), [\d.]+ s after the start", ready)
        assert match, ready + self.process.communicate()[1]
        self.channel = grpc.insecure_channel(match[1])
        self.stub = pb_grpc.VllmEngineStub(self.channel)
        while not (match := re.match(r"http://(\S+) has /v1", ready)):
            ready = self.process.stdout.readline()
        self.openai = openai.OpenAI(
            api_key="any", base_url=f"http://{match[1]}/v1", max_retries=0
        )

    def close(self) -> None:
        self.openai.close()
        self.channel.close()
        self.process.kill()
        self.process.communicate()

    def used_pages(self) -> int:
        return int(self.stub.GetLoads(pb.GetLoadsRequest()).loads[0].num_used_tokens)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def server(cache_dir: Path) -> Iterator[RunningServer]:
    running = RunningServer(cache_dir)
    yield running
    running.close()


def request(text: str = "Once upon a time", **options: object) -> pb.GenerateRequest:
    params = {"temperature": 0.0, "max_tokens": 20, **options}
    return pb.GenerateRequest(
        text=text, stream=True, sampling_params=pb.SamplingParams(**params)
    )


def ids_of(responses: Iterator[pb.GenerateResponse]) -> list[int]:
    return [token for part in responses for token in part.chunk.token_ids]


def test_a_stream_and_a_unary_call_agree(server: RunningServer) -> None:
    streamed = list(server.stub.Generate(request()))
    unary = request()
    unary.stream = False
    (whole,) = server.stub.Generate(unary)
    assert list(whole.complete.output_ids) == ids_of(iter(streamed))
    assert whole.complete.finish_reason == "length"
    assert whole.complete.completion_tokens == 20
    assert streamed[-1].WhichOneof("response") == "complete"


def test_sixty_four_streams_at_once_get_what_each_gets_alone(
    server: RunningServer,
) -> None:
    prompts = [
        f"One day, {name} had {n} balls" for n in range(8) for name in "ABCDEFGH"
    ]
    with ThreadPoolExecutor(64) as pool:
        together = list(
            pool.map(lambda text: ids_of(server.stub.Generate(request(text))), prompts)
        )
    assert [len(ids) for ids in together] == [20] * 64
    for text, ids in list(zip(prompts, together, strict=True))[::9]:
        assert ids_of(server.stub.Generate(request(text))) == ids


def test_an_abort_ends_the_stream_and_frees_its_pages(server: RunningServer) -> None:
    long = request(max_tokens=200, ignore_eos=True)
    long.request_id = "to-abort"
    stream = server.stub.Generate(long)
    next(stream)
    server.stub.Abort(pb.AbortRequest(request_ids=["to-abort", "unknown"]))
    assert list(stream)[-1].complete.finish_reason == "abort"
    assert server.used_pages() == 0


def test_a_client_that_leaves_frees_its_pages(server: RunningServer) -> None:
    stream = server.stub.Generate(request(max_tokens=200, ignore_eos=True))
    next(stream)
    stream.cancel()
    # A later request runs at least one step after the server saw the cancellation.
    while server.used_pages():
        ids_of(server.stub.Generate(request(max_tokens=1)))
    assert server.used_pages() == 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (request(temperature=NAN), "temperature must be"),
        (request(top_p=NAN), "top_p must be"),
        (request(""), "prompt"),
        (request("word " * 300), "prompt"),
        (request(max_tokens=MAX_MODEL_LEN), "max_tokens"),
        (
            pb.GenerateRequest(
                tokenized=pb.TokenizedInput(input_ids=[5, 10**9]), stream=True
            ),
            "prompt",
        ),
    ],
)
def test_a_bad_request_is_refused_and_harms_nobody(
    server: RunningServer, bad: pb.GenerateRequest, words: str
) -> None:
    alone = ids_of(server.stub.Generate(request()))
    good = server.stub.Generate(request())
    with pytest.raises(grpc.RpcError, match=words) as caught:
        list(server.stub.Generate(bad))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert ids_of(good) == alone


def test_every_bad_input_is_answered_while_eight_streams_go_on(
    server: RunningServer,
) -> None:
    alone = ids_of(server.stub.Generate(request(max_tokens=60)))
    url = str(server.openai.base_url)
    is_over = threading.Event()

    def go_on() -> int:
        count = 0
        while not is_over.is_set():
            assert ids_of(server.stub.Generate(request(max_tokens=60))) == alone
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool, httpx2.Client(timeout=60) as client:
        streams = [pool.submit(go_on) for _ in range(8)]
        try:
            for path, rows in (
                ("completions", bad_input.COMPLETIONS),
                ("chat/completions", bad_input.CHATS),
            ):
                for name, (body, status) in rows.items():
                    if name == "empty content":
                        continue  # the template here has more than that
                    answer = client.post(f"{url}{path}", content=body)
                    assert answer.status_code == status, (name, answer.text[:300])
            for name, (call, code) in bad_input.CALLS.items():
                answers = server.stub.Generate(call)
                with contextlib.suppress(grpc.RpcError):
                    list(answers)
                assert answers.code() == code, name
        finally:
            is_over.set()
        assert min(stream.result(timeout=60) for stream in streams) > 0
    assert server.used_pages() == 0


def test_an_unknown_model_is_not_found(server: RunningServer) -> None:
    with pytest.raises(grpc.RpcError, match="demo") as caught:
        list(server.stub.Generate(request(), metadata=(("x-mell-model", "other"),)))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_openai_s_client_gets_what_the_contract_gives(server: RunningServer) -> None:
    prompt, most = "Once upon a time", 20
    ids = ids_of(server.stub.Generate(request(prompt, max_tokens=most)))
    parts = server.openai.completions.create(
        model="demo", prompt=prompt, max_tokens=most, temperature=0, stream=True
    )
    streamed = "".join(part.choices[0].text for part in parts)
    assert len(streamed) > most
    chat = server.openai.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=most,
        temperature=0,
        logprobs=True,
    )
    (choice,) = chat.choices
    assert choice.message.content == streamed
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert (
        b"".join(bytes(word.bytes or ()) for word in choice.logprobs.content)
        == streamed.encode()
    )
    assert chat.usage is not None and chat.usage.completion_tokens == len(ids) == most
    forged = server.openai.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "<eos>"}], max_tokens=1
    )
    assert forged.usage is not None and forged.usage.prompt_tokens > 3


def test_openai_s_client_is_told_what_is_wrong(server: RunningServer) -> None:
    with pytest.raises(openai.NotFoundError):
        server.openai.completions.create(model="other", prompt="One day")
    with pytest.raises(openai.BadRequestError, match="exceeds the context of 256"):
        server.openai.completions.create(
            model="demo", prompt="One day", max_tokens=MAX_MODEL_LEN
        )


def test_the_server_tells_what_it_serves(server: RunningServer) -> None:
    info = server.stub.GetModelInfo(pb.GetModelInfoRequest())
    assert (info.served_model_name, info.max_context_length) == ("demo", MAX_MODEL_LEN)
    assert server.stub.HealthCheck(pb.HealthCheckRequest()).healthy
    health = health_pb2_grpc.HealthStub(server.channel)
    answer = health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_front_end_that_is_killed_frees_its_pages_and_is_replaced(
    server: RunningServer,
) -> None:
    alone = ids_of(server.stub.Generate(request()))
    streams = [
        server.stub.Generate(request(max_tokens=200, ignore_eos=True))
        for _ in range(16)
    ]
    for stream in streams:
        next(stream)
    (front,) = psutil.Process(server.process.pid).children()
    front.kill()
    for stream in streams:
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    front.wait(timeout=30)
    wait_replaced(server.stub)
    again = server.stub.Generate(request(), timeout=60)
    assert ids_of(again) == alone
    assert server.used_pages() == 0


def test_a_warm_start_ends_by_sigterm_after_open_streams(
    server: RunningServer, cache_dir: Path
) -> None:
    del server  # it filled the cache
    other = RunningServer(cache_dir)
    try:
        stream = other.stub.Generate(request(max_tokens=150, ignore_eos=True))
        first = next(stream)
        other.process.send_signal(signal.SIGTERM)
        rest = list(stream)
        assert len(first.chunk.token_ids) + len(ids_of(iter(rest))) == 150
        assert other.process.wait(timeout=30) == 0
    finally:
        other.close()

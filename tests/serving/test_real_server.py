"""`mell-serve` with the demo model, as a process, over a real socket."""

import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from mell_jax.engine.build import demo_directory
from mell_jax.serving.proto import open_inference_pb2_grpc as inference_grpc
from mell_jax.text.tokenizer import load_tokenizer
from tests.serving.kserve.asking import ask, texts_of
from tests.serving.running import (
    MAX_MODEL_LEN,
    RunningServer,
    ids_of,
    request,
    wait_replaced,
)

NAN = float("nan")
TOKENIZER = load_tokenizer(demo_directory())


@pytest.fixture(scope="module")
def server(compiled_dir: Path) -> Iterator[RunningServer]:
    running = RunningServer(compiled_dir, flags=("--tool_format=hermes",))
    yield running
    running.close()


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


SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "is_far": {"type": "boolean"}},
    "required": ["city", "is_far"],
    "additionalProperties": False,
}
ANSWER = re.compile(r'{"city": "(Oslo|Rome)", "is_far": (true|false)}')
TAG = {
    "triggers": ["e"],
    "structures": [{"begin": "e", "schema": {"const": 7}, "end": "!"}],
}
SHAPES = {  # of the gRPC contract, and what answers are
    "json_schema": (json.dumps(SCHEMA), ANSWER),
    "regex": ("[a-c]{3}-[0-9]{2}!", re.compile("[a-c]{3}-[0-9]{2}!")),
    "grammar": ('start: "I " ("see" | "hear")\n', re.compile("I (see|hear)")),
    "choice": (pb.ChoiceConstraint(choices=["a", "bc"]), re.compile("a|bc")),
    "structural_tag": (json.dumps(TAG), re.compile("([^e]|e7!)*e?")),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_constraint_of_the_contract_is_kept(server: RunningServer, name: str) -> None:
    value, shape = SHAPES[name]
    for temperature in (0.0, 1.0):
        asked = request(max_tokens=60, temperature=temperature, seed=5, **{name: value})
        asked.stream = False
        (whole,) = server.stub.Generate(asked)
        (same,) = server.stub.Generate(asked)
        assert whole.complete.output_ids == same.complete.output_ids
        text = TOKENIZER.decode(whole.complete.output_ids, skip_special_tokens=True)
        assert shape.fullmatch(text), text


@pytest.mark.parametrize(
    ("name", "value", "shape"),
    [
        ("guided_json", SCHEMA, ANSWER),
        ("guided_regex", "[a-c]{3}!", re.compile("[a-c]{3}!")),
        ("guided_choice", ["a", "bc"], re.compile("a|bc")),
        ("structured_outputs", {"json": SCHEMA}, ANSWER),
    ],
)
def test_a_constraint_of_tritons_clients_is_kept(
    server: RunningServer, name: str, value: object, shape: re.Pattern[str]
) -> None:
    kserve = inference_grpc.GRPCInferenceServiceStub(server.channel)
    sampling = {"max_tokens": 60, "temperature": 1.0, name: value}
    (text,) = texts_of(kserve.ModelInfer(ask("One day", sampling=sampling)))
    assert shape.fullmatch(text), text


def test_openai_s_client_gets_a_call_and_an_object(server: RunningServer) -> None:
    tool: Any = {
        "type": "function",
        "function": {"name": "look_up", "parameters": SCHEMA},
    }
    hello: Any = [{"role": "user", "content": "One day"}]
    formatted: Any = {
        "type": "json_schema",
        "json_schema": {"name": "place", "schema": SCHEMA},
    }
    chats = server.openai.chat.completions
    for seed in range(3):
        called = chats.create(
            model="demo",
            messages=hello,
            tools=[tool],
            tool_choice="required",
            parallel_tool_calls=False,
            seed=seed,
        )
        (choice,) = called.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls or ()
        assert call.type == "function"
        assert call.function.name == "look_up"
        assert ANSWER.fullmatch(call.function.arguments)
        with chats.stream(
            model="demo", messages=hello, response_format=formatted, seed=seed
        ) as stream:
            for _ in stream:
                pass
            said = stream.get_final_completion().choices[0].message.content
        assert ANSWER.fullmatch(said or "")


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
    front = server.front_end()
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
    server: RunningServer, compiled_dir: Path
) -> None:
    del server  # it filled the cache
    other = RunningServer(compiled_dir)
    try:
        stream = other.stub.Generate(request(max_tokens=150, ignore_eos=True))
        first = next(stream)
        other.process.send_signal(signal.SIGTERM)
        rest = list(stream)
        assert len(first.chunk.token_ids) + len(ids_of(iter(rest))) == 150
        assert other.process.wait(timeout=30) == 0
    finally:
        other.close()

"""What clients may send that they should not, as data for every kind of server.

A row names itself; its answer is an HTTP status or a gRPC code. 200 and OK stand for
odd but good input.
"""

import json
import math
from typing import Any

from grpc import StatusCode
from smg_grpc_proto import vllm_engine_pb2 as pb

INVALID = StatusCode.INVALID_ARGUMENT
NAN, INF = math.nan, math.inf
HUGE = 10**9


def _completion(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a", "max_tokens": 2, **fields}).encode()


def _raw(text: str) -> bytes:
    return b'{"prompt": "a", "max_tokens": 2, ' + text.encode() + b"}"


COMPLETIONS: dict[str, tuple[bytes, int]] = {
    "no prompt": (b"{}", 400),
    "null prompt": (_completion(prompt=None), 400),
    "empty text": (_completion(prompt=""), 400),
    "no ids": (_completion(prompt=[]), 400),
    "a list of no ids": (_completion(prompt=[[]]), 400),
    "text and ids": (_completion(prompt=["a", 1]), 400),
    "a bool": (_completion(prompt=True), 400),
    "a float id": (_completion(prompt=[1.5]), 400),
    "a large id": (_completion(prompt=[HUGE]), 400),
    "a negative id": (_completion(prompt=[-1]), 400),
    "an id of 33 bits": (_completion(prompt=[2**32 - 1]), 400),
    "an id of 70 bits": (_completion(prompt=[2**70]), 400),
    "long ids": (_completion(prompt=[1] * 100_000), 400),
    "long text": (_completion(prompt="a" * 3_000_000), 400),
    "many prompts": (_completion(prompt=["a"] * 129), 400),
    "a surrogate": (_raw(r'"prompt": "\ud800 "'), 400),
    "odd letters": (_completion(prompt="\x00\u202e漢"), 200),
    "max_tokens 0": (_completion(max_tokens=0), 400),
    "max_tokens -1": (_completion(max_tokens=-1), 400),
    "max_tokens above the context": (_completion(max_tokens=HUGE), 400),
    "max_tokens of 70 bits": (_completion(max_tokens=2**70), 400),
    "max_tokens as text": (_completion(max_tokens="5"), 400),
    "max_tokens as a float": (_completion(max_tokens=2.5), 400),
    "min_tokens above max_tokens": (_completion(min_tokens=3), 400),
    "min_tokens above the context": (
        _completion(min_tokens=HUGE, max_tokens=None),
        400,
    ),
    "a temperature of NaN": (_raw('"temperature": NaN'), 400),
    "an infinite temperature": (_raw('"temperature": 1e999'), 400),
    "a negative temperature": (_completion(temperature=-0.1), 400),
    "a huge temperature": (_completion(temperature=1e30), 400),
    "a tiny temperature": (_completion(temperature=1e-45), 200),
    "top_p 0": (_completion(top_p=0.0), 400),
    "top_p 2": (_completion(top_p=2), 400),
    "top_k -2": (_completion(top_k=-2), 400),
    "min_p 2": (_completion(min_p=2), 400),
    "presence_penalty 3": (_completion(presence_penalty=3), 400),
    "frequency_penalty as text": (_completion(frequency_penalty="x"), 400),
    "repetition_penalty 0": (_completion(repetition_penalty=0), 400),
    "a tiny repetition_penalty": (_completion(repetition_penalty=1e-40), 400),
    "a tiny top_p": (_completion(top_p=5e-324), 200),
    "a tiny min_p": (_completion(min_p=5e-324), 200),
    "n 0": (_completion(n=0), 400),
    "n 129": (_completion(n=129), 400),
    "best_of 129": (_completion(best_of=129), 400),
    "n huge": (_completion(n=HUGE), 400),
    "best_of": (_completion(best_of=HUGE), 400),
    "logprobs -1": (_completion(logprobs=-1), 400),
    "logprobs 21": (_completion(logprobs=21), 400),
    "logprobs huge": (_completion(logprobs=HUGE), 400),
    "logprobs true": (_completion(logprobs=True), 400),
    "many biases": (_completion(logit_bias={str(i): 1 for i in range(1025)}), 400),
    "a million biases": (
        b'{"prompt": "a", "logit_bias": {'
        + b",".join(b'"%d":1' % i for i in range(300_000))
        + b"}}",
        400,
    ),
    "a bias out of range": (_completion(logit_bias={str(HUGE): 1}), 400),
    "a bias of a negative id": (_completion(logit_bias={"-1": 1}), 400),
    "a bias of no id": (_completion(logit_bias={"x": 1}), 400),
    "a bias of NaN": (_raw('"logit_bias": {"1": NaN}'), 400),
    "a huge bias": (_completion(logit_bias={"1": 1e9}), 400),
    "an empty stop string": (_completion(stop=""), 400),
    "a long stop string": (_completion(stop="x" * 257), 400),
    "many stop strings": (_completion(stop=["x"] * 5000), 400),
    "a stop number": (_completion(stop=[1]), 400),
    "a stop id out of range": (_completion(stop_token_ids=[HUGE]), 400),
    "many stop ids": (_completion(stop_token_ids=[1] * 5000), 400),
    "no allowed ids": (_completion(allowed_token_ids=[]), 400),
    "an allowed id out of range": (_completion(allowed_token_ids=[-1]), 400),
    "a seed of 70 bits": (_completion(seed=2**70), 400),
    "a negative seed": (_completion(seed=-(2**63)), 200),
    "a suffix": (_completion(suffix="x"), 400),
    "another model": (_completion(model="../../etc/passwd"), 404),
    "a long model name": (_completion(model="x" * 1_000_000), 404),
    "a model number": (_completion(model=1), 400),
    "options as text": (_completion(stream=True, stream_options="x"), 400),
    "an unknown field": (_completion(zebra="{{ 1 / 0 }}"), 200),
    "a template": (_completion(chat_template="{{ 1 / 0 }}"), 400),
    "best_of below n": (_completion(n=2, best_of=1), 400),
    "best_of and n 0": (_completion(n=0, best_of=1), 400),
    "a streamed best_of": (_completion(best_of=2, stream=True), 400),
    "prompt_logprobs 21": (_completion(prompt_logprobs=21), 400),
    "prompt_logprobs true": (_completion(prompt_logprobs=True), 400),
    "streamed prompt_logprobs": (_completion(prompt_logprobs=1, stream=True), 400),
    "an id with a newline": (_completion(request_id="a\nb"), 400),
    "two shapes": (_completion(guided_regex="a", guided_choice=["a"]), 400),
    "a shape of nothing": (_completion(guided_choice=[]), 400),
    "a schema of 2 MB": (_completion(guided_json={"title": "a" * 2_000_000}), 400),
    "a deep schema": (_completion(guided_json="[" * 100_000), 400),
    "nothing": (b"", 400),
    "a list": (b"[1]", 400),
    "a cut object": (b'{"prompt": "a"', 400),
    "bytes": (b"\xff\xfe\x00", 400),
    "invalid UTF-8": (b'{"prompt": "\xff"}', 400),
    "deep nesting": (_raw('"x": ' + "[" * 500_000 + "]" * 500_000), 400),
    "deep objects": (_raw('"x": ' + '{"x":' * 200_000 + "1" + "}" * 200_000), 400),
    "a long number": (_raw('"seed": 1' + "0" * 100_000), 400),
    "five megabytes": (b" " * 5_000_000, 413),
}


def _chat(**fields: Any) -> bytes:
    message = {"role": "user", "content": "a"}
    return json.dumps({"messages": [message], "max_tokens": 2, **fields}).encode()


def _message(**fields: Any) -> bytes:
    return _chat(messages=[{"role": "user", "content": "a", **fields}])


CHATS: dict[str, tuple[bytes, int]] = {
    "no messages": (_chat(messages=[]), 400),
    "many messages": (_chat(messages=[{"role": "user", "content": "a"}] * 5000), 400),
    "messages as text": (_chat(messages="a"), 400),
    "another role": (_message(role="root"), 400),
    "no content": (_message(content=None), 400),
    "empty content": (_message(content=""), 400),
    "content of numbers": (_message(content=[1]), 400),
    "an image": (_message(content=[{"type": "image_url", "image_url": {}}]), 400),
    "tool calls": (_message(role="assistant", tool_calls=[{}]), 400),
    "long content": (_message(content="a" * 3_000_000), 400),
    "a chat surrogate": (
        b'{"messages": [{"role": "user", "content": "\\ud800 "}]}',
        400,
    ),
    "a template of the client's": (_chat(chat_template="{{ 1 / 0 }}"), 400),
    "variables of the client's": (_chat(chat_template_kwargs={"messages": []}), 400),
    "template code as content": (_message(content="{{ 1 / 0 }}{% for %}"), 200),
    "tools": (_chat(tools=[{"type": "function"}]), 400),
    "a schema": (_chat(response_format={"type": "json_schema"}), 400),
    "top_logprobs alone": (_chat(top_logprobs=3), 400),
    "top_logprobs 21": (_chat(logprobs=True, top_logprobs=21), 400),
    "logprobs as a number": (_chat(logprobs=1), 400),
    "chat max_completion_tokens 0": (_chat(max_completion_tokens=0), 400),
}

HEADERS: dict[str, tuple[dict[str, str], int]] = {
    "a long id": ({"x-request-id": "x" * 257}, 200),
    "an id with spaces": ({"x-request-id": "a b"}, 200),
    "an id like a path": ({"x-request-id": "../../x"}, 200),
    "no tenant": ({"x-mell-tenant": ""}, 400),
    "a tenant with spaces": ({"x-mell-tenant": "a b"}, 400),
    "a long tenant": ({"x-mell-tenant": "a" * 129}, 400),
}


def _ids(*ids: int, **sampling: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        tokenized=pb.TokenizedInput(input_ids=ids),
        sampling_params=pb.SamplingParams(**{"max_tokens": 2, **sampling}),
        stream=True,
    )


def _text(text: str, **fields: Any) -> pb.GenerateRequest:
    sampling = pb.SamplingParams(max_tokens=2)
    return pb.GenerateRequest(text=text, sampling_params=sampling, **fields)


CALLS: dict[str, tuple[pb.GenerateRequest, StatusCode]] = {
    "no input": (pb.GenerateRequest(), INVALID),
    "empty text": (_text(""), INVALID),
    "no ids": (_ids(), INVALID),
    "a large id": (_ids(HUGE), INVALID),
    "an id that wraps": (_ids(2**32 - 1), INVALID),
    "long ids": (_ids(*[1] * 100_000), INVALID),
    "long text": (_text("a" * 3_000_000), INVALID),
    "odd letters": (_text("\x00\u202e漢"), StatusCode.OK),
    **{
        f"{name} {value}": (_ids(1, **{name: value}), INVALID)
        for name, value in [
            *(("temperature", value) for value in (NAN, INF, -INF, -1.0, 1e30)),
            *(("top_p", value) for value in (NAN, 1.5, -0.1)),
            *(("min_p", value) for value in (NAN, 2.0)),
            ("top_k", 2**32 - 1),
            *(("presence_penalty", value) for value in (NAN, 3.0)),
            *(("frequency_penalty", value) for value in (NAN, -INF)),
            *(("repetition_penalty", value) for value in (NAN, -1.0, 1e-40)),
            *(("max_tokens", value) for value in (0, 2**32 - 1)),
            *(("min_tokens", value) for value in (3, 2**32 - 1)),
            *(("n", value) for value in (257, 2**32 - 1)),
            *(("logprobs", value) for value in (-1, 21, 2**31 - 1)),
            *(("prompt_logprobs", value) for value in (-1, 21, 2**31 - 1)),
            *(("logit_bias", value) for value in ({HUGE: 1.0}, {-1: 1.0}, {1: NAN})),
            *(("stop", value) for value in ([""], ["x" * 257], ["x"] * 17)),
            *(("stop_token_ids", value) for value in ([HUGE], [1] * 17)),
        ]
    },
    "a million biases": (
        _ids(1, logit_bias=dict.fromkeys(range(300_000), 1.0)),
        INVALID,
    ),
    "a tiny temperature": (_ids(1, temperature=1e-45), StatusCode.OK),
    "a tiny top_p": (_ids(1, top_p=1e-45), StatusCode.OK),
    "a tiny min_p": (_ids(1, min_p=1e-45), StatusCode.OK),
    "a negative seed": (_ids(1, seed=-1), StatusCode.OK),
    "a regex": (_ids(1, regex="(a+)+b"), StatusCode.OK),
    "a deep schema": (_ids(1, json_schema="[" * 100_000), INVALID),
    "a long id": (_text("a", request_id="x" * 1_000_000), INVALID),
    "an id with newlines": (_text("a", request_id="a\nb"), INVALID),
    "another rank": (_text("a", data_parallel_rank=-1), INVALID),
}

"""What clients of KServe may send that they should not, and the field at fault.

For every kind of server whose context is at most a thousand letters.
"""

from typing import Any

from mell_jax.serving.proto import open_inference_pb2 as pb
from tests.serving.kserve.asking import add_text, ask


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
        '{"n": 257}': "n",
        '{"max_tokens": 0}': "max_tokens",
        '{"max_tokens": true}': "max_tokens",
        '{"max_tokens": "many"}': "max_tokens",
        '{"max_tokens": 100, "min_tokens": 101}': "min_tokens",
        '{"seed": 9223372036854775808}': "seed",
        '{"seed": "' + "9" * 10_000 + '"}': "seed",
        '{"stop": ""}': "stop",
        '{"stop": [1]}': "stop",
        '{"stop_token_ids": 1}': "stop_token_ids",
        '{"stop_token_ids": [1000000]}': "stop_token_ids",
        '{"logit_bias": {"1000000": 1}}': "logit_bias",
        '{"logit_bias": {"x": 1}}': "logit_bias",
        '{"logit_bias": [1]}': "logit_bias",
        '{"ignore_eos": 1}': "ignore_eos",
    }.items()
}

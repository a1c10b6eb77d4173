"""Requests as clients of the protocol make them."""

import json
from typing import Any

import grpc

from mell_jax.serving.proto import open_inference_pb2 as pb
from mell_jax.serving.proto import open_inference_pb2_grpc as rpc

GREEDY = {"temperature": 0.0, "max_tokens": 5}


def stub_of(channel: grpc.aio.Channel) -> rpc.GRPCInferenceServiceStub:
    return rpc.GRPCInferenceServiceStub(channel)


def ask(
    text: str = "a",
    *,
    sampling: dict[str, Any] | str | None = None,
    flags: dict[str, bool] | None = None,
    **fields: Any,
) -> pb.ModelInferRequest:
    """A prompt with typed contents, greedy for five tokens unless told otherwise."""
    request = pb.ModelInferRequest(**fields)
    add_text(request, "text_input", text)
    sampling = GREEDY if sampling is None else sampling
    if not isinstance(sampling, str):
        sampling = json.dumps(sampling)
    add_text(request, "sampling_parameters", sampling)
    for name, value in (flags or {}).items():
        tensor = request.inputs.add(name=name, datatype="BOOL", shape=[1])
        tensor.contents.bool_contents.append(value)
    return request


def add_text(request: pb.ModelInferRequest, name: str, text: str) -> None:
    tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())


def texts_of(response: pb.ModelInferResponse, name: str = "text_output") -> list[str]:
    """The strings of an output tensor."""
    names = [output.name for output in response.outputs]
    raw, texts = response.raw_output_contents[names.index(name)], []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        texts.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return texts


def is_final(response: pb.ModelStreamInferResponse) -> bool:
    flag = response.infer_response.parameters["triton_final_response"]
    assert flag.WhichOneof("parameter_choice") == "bool_param"
    return flag.bool_param

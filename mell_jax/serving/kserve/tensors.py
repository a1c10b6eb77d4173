"""The protocol packs tensors of one element like this; pure functions.

A client sends values typed in `contents`, or all of them packed in
`raw_input_contents`, in the order of `inputs`; there a string is its length in bytes,
uint32 little-endian, and its bytes.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.proto import open_inference_pb2 as pb

InputTensor = pb.ModelInferRequest.InferInputTensor

INPUTS: Mapping[str, str] = MappingProxyType(
    {
        "text_input": "BYTES",
        "sampling_parameters": "BYTES",
        "stream": "BOOL",
        "exclude_input_in_output": "BOOL",
        "return_finish_reason": "BOOL",
        "return_num_input_tokens": "BOOL",
        "return_num_output_tokens": "BOOL",
    }
)
"""Tensors that a request may have, and their types; all but the first are optional."""
_LENGTH = struct.Struct("<I")


def read_inputs(request: pb.ModelInferRequest) -> dict[str, str | bool]:
    """Returns the value of every tensor, by name.

    Raises:
      InvalidRequestError: a tensor is unknown, there twice, of another type or not one
        element, or its bytes are not what its type says.
    """
    raws: Sequence[bytes] = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise InvalidRequestError(
            "raw_input_contents",
            f"must have one entry for each of {len(request.inputs)} inputs, or none, "
            f"got {len(raws)}",
        )
    values: dict[str, str | bool] = {}
    for number, tensor in enumerate(request.inputs):
        name = _check(tensor)
        if name in values:
            raise InvalidRequestError(name, "is there twice")
        if not raws:
            values[name] = _typed(tensor)
        elif tensor.HasField("contents"):
            raise InvalidRequestError(
                name, "has contents beside raw_input_contents; send one of them"
            )
        else:
            values[name] = _unpacked(name, raws[number])
    return values


def pack_texts(texts: Sequence[str]) -> bytes:
    """Packs a BYTES tensor as raw contents."""
    parts = []
    for text in texts:
        data = text.encode("utf-8")
        parts += [_LENGTH.pack(len(data)), data]
    return b"".join(parts)


def pack_counts(counts: Sequence[int]) -> bytes:
    """Packs a UINT32 tensor as raw contents."""
    return struct.pack(f"<{len(counts)}I", *counts)


def _check(tensor: InputTensor) -> str:
    name = tensor.name
    if name not in INPUTS:
        raise InvalidRequestError(
            "inputs",
            f"has {name!r:.100}, which is no tensor of a model here; there are "
            f"{', '.join(INPUTS)}",
        )
    if tensor.datatype != INPUTS[name]:
        raise InvalidRequestError(
            name, f"must be of type {INPUTS[name]}, got {tensor.datatype!r:.100}"
        )
    shape = tensor.shape[:8]
    if not (len(tensor.shape) <= 2 and math.prod(shape) == 1 and all(shape)):
        raise InvalidRequestError(
            name,
            f"must have one element, of shape [1] or [1, 1], got {list(shape)}; send "
            "a request for each prompt",
        )
    if tensor.parameters:
        raise InvalidRequestError(
            name, f"takes no parameters, got {next(iter(tensor.parameters))!r:.100}"
        )
    return name


def _typed(tensor: InputTensor) -> str | bool:
    """The one value in `contents`."""
    if INPUTS[tensor.name] == "BOOL":
        flags = tensor.contents.bool_contents
        if len(flags) != 1:
            raise InvalidRequestError(
                tensor.name, f"needs one value in bool_contents, got {len(flags)}"
            )
        return bool(flags[0])
    texts = tensor.contents.bytes_contents
    if len(texts) != 1:
        raise InvalidRequestError(
            tensor.name, f"needs one value in bytes_contents, got {len(texts)}"
        )
    return _decoded(tensor.name, texts[0])


def _unpacked(name: str, raw: bytes) -> str | bool:
    if INPUTS[name] == "BOOL":
        if raw not in (b"\0", b"\1"):
            raise InvalidRequestError(
                name, f"must be one byte, 0 or 1, got {raw[:8]!r} of {len(raw)}"
            )
        return raw == b"\1"
    size = _LENGTH.unpack_from(raw)[0] if len(raw) >= _LENGTH.size else -1
    if size != len(raw) - _LENGTH.size:
        raise InvalidRequestError(
            name,
            f"must be a length of 4 bytes and as many bytes, got {len(raw)} bytes that "
            f"begin {raw[:4]!r}",
        )
    return _decoded(name, raw[_LENGTH.size :])


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            name, f"must be UTF-8, which it is not from byte {error.start} on"
        ) from error

"""Deltas become messages of KServe's protocol; pure functions.

one response      text_output [n], one element per sample
one of a stream   text_output [1], what is new since the one before
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc

from mell_jax.frontend import Delta
from mell_jax.serving.kserve.asking import VERSION, InferenceRequest
from mell_jax.serving.kserve.tensors import INPUTS, pack_counts, pack_texts
from mell_jax.serving.proto import open_inference_pb2 as pb
from mell_jax.serving.status import status_of

PLATFORM = "mell_jax"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Holds what one sample has said, all of it or a part."""

    text: str
    finish_reason: str  # empty until the end
    num_input_tokens: int
    num_output_tokens: int  # of this part
    weights_version: str = ""  # of the last token; empty without one


def said_in(deltas: Sequence[Delta], *, prompt: str = "") -> Said:
    """Joins at least one delta of one sample, behind `prompt`, to one value."""
    last = deltas[-1]
    return Said(
        text=prompt + "".join(delta.text for delta in deltas),
        finish_reason="" if last.finish is None else last.finish.reason,
        num_input_tokens=last.prompt_tokens,
        num_output_tokens=sum(len(delta.token_ids) for delta in deltas),
        weights_version=last.weights_version,
    )


_COLUMNS: Mapping[str, tuple[str, Callable[[Sequence[Said]], bytes]]] = {
    "text_output": ("BYTES", lambda said: pack_texts([s.text for s in said])),
    "finish_reason": (
        "BYTES",
        lambda said: pack_texts([s.finish_reason for s in said]),
    ),
    "num_input_tokens": (
        "UINT32",
        lambda said: pack_counts([s.num_input_tokens for s in said]),
    ),
    "num_output_tokens": (
        "UINT32",
        lambda said: pack_counts([s.num_output_tokens for s in said]),
    ),
}
_KINDS = {"BYTES": pb.TYPE_STRING, "BOOL": pb.TYPE_BOOL, "UINT32": pb.TYPE_UINT32}


def response_of(
    wanted: InferenceRequest, said: Sequence[Said], *, model: str
) -> pb.ModelInferResponse:
    """Returns the tensors that were asked for, with one element per sample."""
    shape = [1] * (wanted.ndim - 1) + [len(said)]
    response = pb.ModelInferResponse(
        model_name=model, model_version=VERSION, id=wanted.id
    )
    for sample in said:
        if sample.weights_version:
            version = sample.weights_version
            response.parameters["weight_version"].string_param = version
    for name in wanted.outputs:
        datatype, pack = _COLUMNS[name]
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(pack(said))
    return response


def streamed(
    response: pb.ModelInferResponse, *, is_final: bool
) -> pb.ModelStreamInferResponse:
    """Wraps a response for a stream; clients look for the flag of the last one."""
    response.parameters["triton_final_response"].bool_param = is_final
    return pb.ModelStreamInferResponse(infer_response=response)


def failure_of(
    error: Exception, *, request: pb.ModelInferRequest
) -> pb.ModelStreamInferResponse:
    """Returns the end of one request of a stream that goes on.

    Clients show the text alone, so it names the request; the status stands beside it.
    """
    status = status_of(error)
    name = request.id[:256]
    prefix = f"[request id: {name}] " if name else ""
    response = pb.ModelInferResponse(id=name)
    code = _CODE_NAMES[status.code]
    response.parameters["status"].string_param = code
    answer = streamed(response, is_final=True)
    answer.error_message = f"{prefix}{status.message}"
    return answer


_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def metadata_of(model: str) -> pb.ModelMetadataResponse:
    """Describes what goes in and out of a model."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=model,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=[tensor(name=n, datatype=t, shape=[1]) for n, t in INPUTS.items()],
        outputs=[
            tensor(name=name, datatype=datatype, shape=[-1])
            for name, (datatype, _) in _COLUMNS.items()
        ],
    )


def config_of(model: str) -> pb.ModelConfigResponse:
    """Describes the same as Triton's tools want it."""
    config = pb.ModelConfig(
        name=model,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=0,  # a request is one prompt; batching is our business
        input=[
            pb.ModelInput(
                name=name,
                data_type=_KINDS[datatype],
                dims=[1],
                optional=name != "text_input",
            )
            for name, datatype in INPUTS.items()
        ],
        output=[
            pb.ModelOutput(name=name, data_type=_KINDS[datatype], dims=[-1])
            for name, (datatype, _) in _COLUMNS.items()
        ],
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=True),
    )
    return pb.ModelConfigResponse(config=config)

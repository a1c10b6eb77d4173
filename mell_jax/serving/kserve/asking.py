"""A `ModelInferRequest` becomes our own values; pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.frontend import UnknownModelError
from mell_jax.serving.client_values import checked_request_id
from mell_jax.serving.kserve.sampling import params_of
from mell_jax.serving.kserve.tensors import read_inputs
from mell_jax.serving.proto import open_inference_pb2 as pb

VERSION = "1"  # of every model
OUTPUTS = ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens")
_IGNORED = ("triton_enable_empty_final_response",)  # the last response is never empty
_FLAGS = ("stream", "exclude_input_in_output")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """An inference request is what one client asks for, checked.

    Attributes:
      id: the caller's name for it, to be repeated; perhaps empty, or not unique.
      model: empty for the default one.
      outputs: names of the tensors to answer with.
      is_streamed: text is sent as it comes; None: as the call does.
      repeats_prompt: the text begins with the prompt.
      ndim: of the prompt's tensor, and so of each answer's.
    """

    id: str
    model: str
    prompt: str
    params: SamplingParams
    outputs: tuple[str, ...]
    is_streamed: bool | None
    repeats_prompt: bool
    ndim: int


def inference_of(
    request: pb.ModelInferRequest, *, defaults: SamplingParams
) -> InferenceRequest:
    """Reads what is asked for.

    Args:
      defaults: the model's parameters, for those that the request leaves out.

    Raises:
      InvalidRequestError: a part of the request cannot be.
      UnknownModelError: the model has no such version.
    """
    check_version(request.model_version)
    tensors = read_inputs(request)
    flags, others = _parameters(request.parameters, tensors=tensors)
    if "text_input" not in tensors:
        raise InvalidRequestError("text_input", "must be among the inputs")
    shape = next(each for each in request.inputs if each.name == "text_input").shape
    return InferenceRequest(
        id=checked_request_id(request.id),
        model=request.model_name,
        prompt=str(tensors["text_input"]),
        params=params_of(
            str(tensors.get("sampling_parameters", "")),
            others=others,
            defaults=defaults,
        ),
        outputs=_outputs(request, tensors=tensors),
        is_streamed=flags.get("stream"),
        repeats_prompt=not flags.get("exclude_input_in_output", True),
        ndim=len(shape),
    )


def check_version(version: str) -> None:
    """Refuses versions that are not there.

    Raises:
      UnknownModelError: models here have version 1.
    """
    if version not in ("", VERSION):
        raise UnknownModelError(
            f"there is no version {version!r:.100}; every model has version {VERSION}"
        )


def _parameters(
    parameters: Mapping[str, pb.InferParameter],
    *,
    tensors: Mapping[str, str | bool],
) -> tuple[dict[str, bool], dict[str, object]]:
    """Flags, also those sent as tensors, and the rest: sampling parameters."""
    flags = {name: bool(tensors[name]) for name in _FLAGS if name in tensors}
    others: dict[str, object] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = None if kind is None else getattr(parameter, kind)
        if name in _IGNORED:
            continue
        if name not in _FLAGS:
            others[name] = value
        elif not isinstance(value, bool):
            raise InvalidRequestError(name, f"must be a bool_param, got {value!r:.100}")
        elif name in flags:
            raise InvalidRequestError(name, "is a parameter and a tensor, too")
        else:
            flags[name] = value
    return flags, others


def _outputs(
    request: pb.ModelInferRequest, *, tensors: Mapping[str, str | bool]
) -> tuple[str, ...]:
    """Those named, or the text; and those whose `return_...` is true."""
    named = [output.name for output in request.outputs[: len(OUTPUTS) + 1]]
    wanted = named or ["text_output"]
    wanted += [name for name in OUTPUTS[1:] if tensors.get(f"return_{name}")]
    for name in wanted:
        if name not in OUTPUTS:
            raise InvalidRequestError(
                "outputs",
                f"has {name!r:.100}, which is no tensor of a model here; there are "
                f"{', '.join(OUTPUTS)}",
            )
    if len(set(named)) < len(request.outputs):
        raise InvalidRequestError("outputs", "names a tensor twice")
    return tuple(dict.fromkeys(wanted))

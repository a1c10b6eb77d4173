"""A body of /v1/responses becomes a wish, and what the response repeats of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.serving.chat.wish import ChatWish, Json
from mell_jax.serving.client_values import known_top_k
from mell_jax.serving.openai.responses.conversation import messages_of
from mell_jax.serving.openai.responses.fields import INCLUDABLE
from mell_jax.serving.openai.responses.tools import tooling_of
from mell_jax.serving.openai.responses.wire import ResponsesRequest

T = TypeVar("T")

FIELD_NAMES = {  # of other APIs, in which the rules are written
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text",
}
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request asks for an answer, and how to tell of it.

    Attributes:
      wish: what is asked for.
      repeated: of the request in every response object.
      seals_thoughts: thoughts come as `encrypted_content`, too.
    """

    wish: ChatWish
    repeated: Json
    seals_thoughts: bool


def asked_by(request: ResponsesRequest, *, defaults: SamplingParams) -> Asked:
    """Returns what a request asks for.

    Args:
      request: as it was read.
      defaults: the model's, for what the request leaves out.

    Raises:
      InvalidRequestError: a value is out of range, or asks for what is not here.
    """
    tooling = tooling_of(request.tools or (), choice=request.tool_choice)
    effort = _effort((request.reasoning or {}).get("effort"))
    included = set(request.include or ())
    if strange := included - INCLUDABLE:
        raise InvalidRequestError(
            "include", f"has {min(strange)!r:.100}, which is not supported here"
        )
    wish = ChatWish(
        messages=messages_of(request.input, instructions=request.instructions),
        params=_params(request, defaults=defaults),
        tools=tooling.tools,
        tool_choice=tooling.choice,
        is_parallel=_or(request.parallel_tool_calls, True),
        response_format=_format((request.text or {}).get("format")),
        thinks=None if effort is None else effort != "none",
        effort=None if effort == "none" else effort,
        template_kwargs=request.chat_template_kwargs or {},
    )
    return Asked(
        wish=wish,
        repeated=_repeated(request, params=wish.params, effort=effort),
        seals_thoughts="reasoning.encrypted_content" in included,
    )


def _effort(value: object) -> str | None:
    if value is None:
        return None
    if not (isinstance(value, str) and value in _EFFORTS):
        raise InvalidRequestError(
            "reasoning",
            f"must have an effort of {', '.join(_EFFORTS)}, got {value!r:.100}",
        )
    return value


def _format(value: object) -> Json | None:
    """Returns the format of the answer as chat completions have it."""
    match value:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "json_object"}
        case {"type": "json_schema", "schema": dict(schema), **rest}:
            names = ("name", "description", "strict")
            named = {each: rest[each] for each in names if rest.get(each) is not None}
            described = {**named, "schema": schema}
            return {"type": "json_schema", "json_schema": described}
    raise InvalidRequestError(
        "text",
        "must have a format of the type text, json_object, or json_schema with a "
        f"schema, got {value!r:.100}",
    )


def _params(request: ResponsesRequest, *, defaults: SamplingParams) -> SamplingParams:
    stop = request.stop
    return SamplingParams(
        temperature=_or(request.temperature, defaults.temperature),
        top_p=_or(request.top_p, defaults.top_p),
        top_k=known_top_k(_or(request.top_k, defaults.top_k)),
        min_p=_or(request.min_p, defaults.min_p),
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        repetition_penalty=_or(request.repetition_penalty, defaults.repetition_penalty),
        logit_bias=request.logit_bias or {},
        seed=request.seed,
        max_tokens=request.max_output_tokens,
        min_tokens=_or(request.min_tokens, 0),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        ignore_eos=bool(request.ignore_eos),
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _repeated(
    request: ResponsesRequest, *, params: SamplingParams, effort: str | None
) -> Mapping[str, object]:
    wanted = (request.text or {}).get("format") or {"type": "text"}
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "parallel_tool_calls": _or(request.parallel_tool_calls, True),
        "previous_response_id": None,
        "prompt_cache_key": request.prompt_cache_key,
        "prompt_cache_retention": request.prompt_cache_retention,
        "reasoning": {"effort": effort, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": params.temperature,
        "text": {"format": wanted, "verbosity": "medium"},
        "tool_choice": _or(request.tool_choice, "auto"),
        "tools": request.tools or [],
        "top_logprobs": 0,
        "top_p": params.top_p,
        "truncation": "disabled",
        "user": request.user,
    }

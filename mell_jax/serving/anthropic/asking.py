"""A body of /v1/messages becomes a wish; pure functions."""

from typing import TypeVar

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.serving.anthropic.conversation import messages_of
from mell_jax.serving.anthropic.wire import MessagesRequest
from mell_jax.serving.chat.wish import ChatWish, Json
from mell_jax.serving.client_values import known_top_k

T = TypeVar("T")

FIELD_NAMES = {  # of other APIs, in which the rules are written
    "stop": "stop_sequences",
    "response_format": "output_config",
}
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


def wish_of(request: MessagesRequest, *, defaults: SamplingParams) -> ChatWish:
    """Returns what a request asks for.

    Args:
      request: as it was read.
      defaults: the model's, for what the request leaves out.

    Raises:
      InvalidRequestError: a value is out of range, or asks for what is not here.
    """
    tools = tuple(
        _tool(each, where=f"[{i}]") for i, each in enumerate(request.tools or ())
    )
    choice, is_parallel = _choice(request.tool_choice, tools=tools)
    output = request.output_config or {}
    messages = messages_of(request.messages, system=request.system)
    return ChatWish(
        messages=messages,
        params=_params(request, defaults=defaults),
        tools=tools,
        tool_choice=choice,
        is_parallel=is_parallel,
        response_format=_format(output.get("format")),
        thinks=_thinks(request.thinking),
        effort=_effort(output.get("effort")),
        continues_last=bool(messages) and messages[-1]["role"] == "assistant",
    )


def _tool(tool: Json, *, where: str) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise InvalidRequestError(
            "tools",
            f"{where} is of the type {tool['type']!r:.100}; this server runs no tools "
            "of its own and knows those of the type 'custom' only: leave it out",
        )
    if not isinstance(tool.get("name"), str):
        raise InvalidRequestError("tools", f"{where}.name is required, a text")
    if not isinstance(tool.get("input_schema"), dict):
        raise InvalidRequestError(
            "tools",
            f"{where}.input_schema must be a JSON schema, an object, got "
            f"{tool.get('input_schema')!r:.100}",
        )
    said = ("name", "description", "strict")
    function = {name: tool[name] for name in said if tool.get(name) is not None}
    function["parameters"] = tool["input_schema"]
    return {"type": "function", "function": function}


def _choice(value: Json | None, *, tools: tuple[Json, ...]) -> tuple[str | Json, bool]:
    """Returns the choice in the words of chat, and whether calls may be parallel."""
    if value is None:
        return "auto", True
    is_parallel = not value.get("disable_parallel_tool_use")
    match value:
        case {"type": "auto"}:
            return "auto", is_parallel
        case {"type": "none"}:
            return "none", is_parallel
        case {"type": "any"}:
            if not tools:
                raise InvalidRequestError("tool_choice", "of 'any' needs tools")
            return "required", is_parallel
        case {"type": "tool", "name": str(name)}:
            if name not in [tool["function"]["name"] for tool in tools]:
                raise InvalidRequestError(
                    "tool_choice", f"names {name!r:.100}, which is none of the tools"
                )
            return {"type": "function", "function": {"name": name}}, is_parallel
    raise InvalidRequestError(
        "tool_choice",
        "must have the type auto, any, none, or tool with a name, got "
        f"{dict(value)!r:.100}",
    )


def _thinks(thinking: Json | None) -> bool | None:
    """Returns whether the model should think: without a word it should not."""
    if thinking is None:
        return False
    match thinking.get("type"):
        case "enabled":
            return True
        case "disabled":
            return False
        case "adaptive":
            return None
        case other:
            raise InvalidRequestError(
                "thinking",
                f"must have the type enabled, disabled or adaptive, got {other!r:.100}",
            )


def _effort(value: object) -> str | None:
    if value is None:
        return None
    if not (isinstance(value, str) and value in _EFFORTS):
        raise InvalidRequestError(
            "output_config",
            f"must have an effort of {', '.join(_EFFORTS)}, got {value!r:.100}",
        )
    return value


def _format(value: object) -> Json | None:
    """Returns the format of the answer as chat completions have it."""
    match value:
        case None:
            return None
        case {"type": "json_schema", "schema": dict(schema)}:
            named = {"name": "answer", "schema": schema, "strict": True}
            return {"type": "json_schema", "json_schema": named}
    raise InvalidRequestError(
        "output_config",
        f"must have a format of the type json_schema with a schema, got {value!r:.100}",
    )


def _params(request: MessagesRequest, *, defaults: SamplingParams) -> SamplingParams:
    return SamplingParams(
        temperature=_or(request.temperature, defaults.temperature),
        top_p=_or(request.top_p, defaults.top_p),
        top_k=known_top_k(_or(request.top_k, defaults.top_k)),
        min_p=defaults.min_p,
        repetition_penalty=defaults.repetition_penalty,
        max_tokens=request.max_tokens,
        stop=tuple(request.stop_sequences or ()),
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value

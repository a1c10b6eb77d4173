"""Bodies of requests are read as typed values.

A field is read, or changes nothing and is passed over, or is known to ask for what this
server does not have and is refused by name. One that nobody here has heard of is passed
over, and the answer says so. Ranges are checked where every door leads, in
`SamplingParams`.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.problem import MalformedMessageError

_PATH = re.compile(r"^(?P<rule>.*) - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$", re.S)


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A client says with this what else a stream tells."""

    include_usage: bool | None = None


class _Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Both kinds of requests may say this; null is as good as nothing.

    The fields after `user` are not OpenAI's: clients send them as `extra_body`.
    """

    model: str | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    max_tokens: int | None = None
    n: int | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: Any = None
    allowed_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    skip_special_tokens: bool | None = None
    stop_token_ids: list[int] | None = None
    top_k: int | None = None


class CompletionRequest(_Sampling, frozen=True, kw_only=True):
    """POST /v1/completions has this body."""

    prompt: str | list[str | int | list[int]]
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | bool | None = None  # some clients write false for null
    suffix: str | None = None


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A message's content can be a list of such parts."""

    type: str
    text: str | None = None


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A model called this; `arguments` is JSON, which some clients send as a value."""

    name: str
    arguments: str | dict[str, Any] | None = None


class CalledTool(msgspec.Struct, frozen=True, kw_only=True):
    """An assistant's message can have a list of such calls."""

    function: CalledFunction
    id: str | None = None
    type: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation is a list of such messages."""

    role: str
    content: str | list[Part] | None = None
    function_call: Any = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[CalledTool] | None = None


class ChatRequest(_Sampling, frozen=True, kw_only=True):
    """POST /v1/chat/completions has this body."""

    messages: list[ChatMessage]
    add_generation_prompt: bool | None = None
    audio: Any = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    function_call: Any = None
    functions: list[Any] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    modalities: list[str] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    top_logprobs: int | None = None


R = TypeVar("R", CompletionRequest, ChatRequest)

_BOM = b"\xef\xbb\xbf"
_INTEGRAL = re.compile(rb"(-?[0-9]+)\.0+")
_IGNORED = frozenset(  # they change nothing that this server does
    (
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
    )
)
_NEVER: tuple[object, ...] = ()
_BOTH: Mapping[str, tuple[object, ...]] = {
    "bad_words": ([],),
    "cache_salt": _NEVER,
    "guided_choice": _NEVER,
    "guided_decoding_backend": _NEVER,
    "guided_grammar": _NEVER,
    "guided_json": _NEVER,
    "guided_regex": _NEVER,
    "kv_transfer_params": _NEVER,
    "length_penalty": (1,),
    "logits_processors": ([],),
    "priority": (0,),
    "prompt_logprobs": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "structured_outputs": _NEVER,
    "truncate_prompt_tokens": _NEVER,
    "use_beam_search": (False,),
}
_UNSUPPORTED: Mapping[type, Mapping[str, tuple[object, ...]]] = {
    CompletionRequest: {
        **_BOTH,
        "add_special_tokens": (True,),
        "max_completion_tokens": _NEVER,
        "messages": _NEVER,
        "prompt_embeds": _NEVER,
        "response_format": ({"type": "text"},),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": _NEVER,
    },
    ChatRequest: {
        **_BOTH,
        "add_special_tokens": (False,),
        "best_of": (1,),
        "chat_template": _NEVER,
        "echo": (False,),
        "include_reasoning": (True,),
        "mm_processor_kwargs": ({},),
        "prompt": _NEVER,
        "reasoning_effort": _NEVER,
        "suffix": ("",),
        "verbosity": _NEVER,
        "web_search_options": _NEVER,
    },
}
"""Fields that clients know and this server does not have, by route, each with the
values that ask for nothing. Null never does."""


def parse(body: bytes, kind: type[R]) -> tuple[R, tuple[str, ...]]:
    """Reads a request from a body in JSON, and the names of fields nobody knows.

    Whole numbers may be written as floats (2.0), and a byte order mark may come first.

    Raises:
      InvalidRequestError: a field is missing, has a wrong type, or asks for what this
        server does not have; names it.
      MalformedMessageError: the body is no JSON object.
    """
    try:
        fields = msgspec.json.decode(
            body.removeprefix(_BOM), type=dict[str, msgspec.Raw]
        )
        unread = fields.keys() - frozenset(kind.__struct_fields__)
        unknown = [
            name for name in unread if _is_unknown(name, fields.pop(name), kind=kind)
        ]
        for name, raw in fields.items():
            if whole := _INTEGRAL.fullmatch(bytes(raw).strip()):
                fields[name] = msgspec.Raw(whole[1])
        request = msgspec.json.decode(msgspec.json.encode(fields), type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(
            f"the body is not usable JSON: {str(error)[:200]}"
        ) from error
    return request, tuple(sorted(unknown))


def _is_unknown(name: str, raw: msgspec.Raw, *, kind: type) -> bool:
    """Refuses a field that is not read, if it is known to ask for something."""
    neutral = _UNSUPPORTED[kind].get(name)
    if neutral is None:
        return name not in _IGNORED
    value = msgspec.json.decode(raw)
    if value is not None and not any(
        value == each and isinstance(value, bool) == isinstance(each, bool)
        for each in neutral
    ):
        raise InvalidRequestError(name, "is not supported here; leave it out")
    return False


def _invalid(message: str) -> InvalidRequestError:
    """Expected `int | null`, got `str` - at `$.n`  ->  n: expected `int | null`, ..."""
    if match := _PATH.match(message):
        rule, path = match["rule"], match["path"]
        field = re.split(r"[.\[]", path, maxsplit=1)[0]
        where = "" if path == field else f" at {path}"
        return InvalidRequestError(
            field or "body", f"has a wrong type{where}: {rule[:1].lower()}{rule[1:]}"
        )
    if missing := re.search(r"missing required field `(\w+)`", message):
        return InvalidRequestError(missing[1], "is required")
    return InvalidRequestError("body", f"must be an object: {message}")

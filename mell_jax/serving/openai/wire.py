"""Bodies of requests are read as typed values.

Fields that we do not know are ignored, as OpenAI does; a known field of a wrong type is
refused by name. Ranges are checked where every door leads, in `SamplingParams`.
"""

import re
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

    model: str = ""
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
    user: str | None = None
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
    logprobs: int | None = None
    suffix: str | None = None


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A message's content can be a list of such parts."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation is a list of such messages."""

    role: str
    content: str | list[Part] | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class ChatRequest(_Sampling, frozen=True, kw_only=True):
    """POST /v1/chat/completions has this body."""

    messages: list[ChatMessage]
    audio: Any = None
    functions: list[Any] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    modalities: list[str] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    top_logprobs: int | None = None


R = TypeVar("R", CompletionRequest, ChatRequest)


def parse(body: bytes, kind: type[R]) -> R:
    """Reads a request from a body in JSON.

    Raises:
      InvalidRequestError: a field is missing or has a wrong type; names it.
      MalformedMessageError: the body is no JSON object.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(
            f"the body is not usable JSON: {str(error)[:200]}"
        ) from error


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

"""Bodies of requests are read as typed values.

`fields.py` says what becomes of a field that is not read. Ranges are checked where
every door leads, in `SamplingParams`.
"""

from typing import Any, ClassVar, TypeVar

import msgspec

from mell_jax.serving.chat.body import read_body
from mell_jax.serving.chat.fields import Fields
from mell_jax.serving.openai.fields import CHAT, COMPLETIONS, DETOKENIZE, TOKENIZE


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A client says with this what else a stream tells."""

    continuous_usage_stats: bool | None = None
    include_usage: bool | None = None


class _Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Both kinds of requests may say this; null is as good as nothing.

    The fields after `top_p` are not OpenAI's, but for `response_format`: clients send
    them as `extra_body`.
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
    allowed_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    skip_special_tokens: bool | None = None
    stop_token_ids: list[int] | None = None
    top_k: int | None = None
    logprobs_mode: str | None = None
    prompt_logprobs: int | bool | None = None  # as logprobs
    request_id: str | None = None
    return_token_ids: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    structural_tag: dict[str, Any] | str | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


class CompletionRequest(_Sampling, frozen=True, kw_only=True):
    """POST /v1/completions has this body."""

    known: ClassVar[Fields] = COMPLETIONS

    prompt: str | list[str | int | list[int]]
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | bool | None = None  # some clients write false for null


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

    known: ClassVar[Fields] = CHAT

    messages: list[ChatMessage] = []
    prompt_token_ids: list[int] | None = None  # in place of messages
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    top_logprobs: int | None = None


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /tokenize has this body: a prompt, or messages."""

    known: ClassVar[Fields] = TOKENIZE

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] = []
    add_generation_prompt: bool | None = None
    add_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /detokenize has this body."""

    known: ClassVar[Fields] = DETOKENIZE

    model: str | None = None
    tokens: list[int]


R = TypeVar("R", CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest)


def parse(body: bytes, kind: type[R]) -> tuple[R, tuple[str, ...]]:
    """Reads a request from a body in JSON, and the names of fields nobody knows.

    See `read_body` for errors.
    """
    return read_body(body, kind, fields=kind.known)

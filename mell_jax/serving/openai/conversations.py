"""A chat request's messages and what comes with them become a conversation."""

from collections.abc import Mapping
from typing import Any

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.chat.speech import MAX_MESSAGES, invalid_conversation
from mell_jax.serving.chat.tools import Tooling
from mell_jax.serving.openai.wire import (
    CalledTool,
    ChatMessage,
    ChatRequest,
    Part,
    TokenizeRequest,
)
from mell_jax.serving.problem import UnsupportedError
from mell_jax.text.conversation import Conversation, ConversationError, Message

_ROLES = {
    "system": "system",
    "developer": "system",  # templates do not know the newer name
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def conversation_of(
    request: ChatRequest | TokenizeRequest, *, tooling: Tooling
) -> Conversation:
    """Returns what a request wants to have answered, perhaps with tools.

    Raises:
      InvalidRequestError: a message has no usable content or role, or a field breaks
        a rule.
      UnsupportedError: this server does not have what is asked for.
    """
    messages = request.messages
    if not (1 <= len(messages) <= MAX_MESSAGES):
        raise InvalidRequestError(
            "messages", f"must be 1 to {MAX_MESSAGES}, got {len(messages)}"
        )
    continues, asks = request.continue_final_message, request.add_generation_prompt
    if continues and asks:
        raise InvalidRequestError(
            "continue_final_message",
            "ends the prompt inside the last message and add_generation_prompt behind "
            "it: ask for one of them",
        )
    try:
        return Conversation(
            messages=[_message(each, index=i) for i, each in enumerate(messages)],
            tools=tooling.for_template(),
            documents=request.documents or None,
            kwargs=request.chat_template_kwargs or {},
            asks_for_answer=not continues and asks is not False,
            continues=bool(continues),
        )
    except ConversationError as error:
        raise invalid_conversation(error) from error


def _message(message: ChatMessage, *, index: int) -> Message:
    """Returns a message with what templates know, in the order of OpenAI's."""
    if message.role not in _ROLES:
        raise InvalidRequestError(
            "messages",
            f"[{index}].role must be one of {', '.join(_ROLES)}, got "
            f"{message.role!r:.100}",
        )
    if message.function_call:
        raise UnsupportedError(
            f"messages[{index}].function_call is not supported: send tool_calls, which "
            "replaced it"
        )
    calls = message.tool_calls or None
    if calls and message.role != "assistant":
        raise InvalidRequestError(
            "messages", f"[{index}].tool_calls are of messages of role assistant only"
        )
    if message.content is None and message.role != "assistant":
        raise InvalidRequestError("messages", f"[{index}].content is required")
    said: dict[str, Any] = {
        "role": _ROLES[message.role],
        "content": _content(message.content, index=index),
        "name": message.name,
        "reasoning_content": message.reasoning_content,
        "reasoning": message.reasoning,
        "tool_calls": calls and [_call(each, index=index) for each in calls],
        "tool_call_id": message.tool_call_id,
    }
    return {key: value for key, value in said.items() if value is not None}


def _content(
    content: str | list[Part] | None, *, index: int
) -> str | list[Mapping[str, Any]] | None:
    if not isinstance(content, list):
        return content
    return [{"type": "text", "text": _text(part, index=index)} for part in content]


def _text(part: Part, *, index: int) -> str:
    if part.type != "text" or part.text is None:
        raise UnsupportedError(
            f"messages[{index}].content may have parts of text only, got "
            f"{part.type!r:.100}"
        )
    return part.text


def _call(call: CalledTool, *, index: int) -> Mapping[str, Any]:
    if call.type not in (None, "function"):
        raise UnsupportedError(
            f"messages[{index}].tool_calls may have calls of functions only, got "
            f"{call.type!r:.100}"
        )
    function = {"name": call.function.name, "arguments": call.function.arguments or ""}
    said = {"id": call.id, "type": "function", "function": function}
    return {key: value for key, value in said.items() if value is not None}

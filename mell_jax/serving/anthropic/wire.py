"""The body of POST /v1/messages as typed values."""

from typing import Any

import msgspec


class TextBlock(msgspec.Struct, frozen=True, kw_only=True):
    """The system's words, or the result of a tool, may be a list of such blocks."""

    type: str
    text: str | None = None


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A message's content is a list of such blocks.

    Attributes:
      type: its kind.
      text: of a text.
      thinking: of a thought; its `signature` is not looked at.
      id: of a use of a tool.
      name: of the tool.
      input: of the tool.
      tool_use_id: of a result.
      content: of a result.
      is_error: a result is what went wrong.
    """

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation is a list of such messages."""

    role: str
    content: str | list[Block]


class MessagesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/messages has this body; null is as good as nothing."""

    messages: list[Message]
    max_tokens: int
    model: str | None = None
    system: str | list[TextBlock] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None

"""A conversation is what a caller wants to have answered, in OpenAI's words.

It says nothing of the model: `ChatPrompt` turns it into what the model's template
reads, and then into token ids. Every door that has messages makes one.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mell_jax.text.json_values import JsonValue, collect_strings

MAX_KWARGS = 64
MAX_KWARGS_CHARS = 64 * 1024  # as JSON
ROLES = frozenset(("system", "user", "assistant", "tool"))
"""The roles that all templates know."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_RESERVED = frozenset(  # what the engine says itself, and what templates are made with
    (
        *("messages", "tools", "documents", "add_generation_prompt"),
        *("continue_final_message", "chat_template", "tokenize"),
        *("raise_exception", "strftime_now", "namespace", "dict", "range", "cycler"),
        *("joiner", "lipsum", "self", "loop", "caller", "true", "false", "none"),
        *("True", "False", "None"),
    )
)

Message = Mapping[str, JsonValue]


class ConversationError(ValueError):
    """A conversation breaks a rule; `part` names the attribute at fault."""

    def __init__(self, part: str, rule: str) -> None:
        super().__init__(f"{part} {rule}")
        self.part = part
        self.rule = rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation is what was said and what may be used for the answer.

    Attributes:
      messages: as OpenAI has them: `role`, `content` (a text, parts of text or None),
        `tool_calls` whose `arguments` are JSON in a string, `tool_call_id`, `name`,
        `reasoning_content`. The roles are the program's, all else is a user's.
      tools: descriptions for the template; None when no tool may be called.
      documents: texts for the template; None when there are none.
      kwargs: more variables of the template, such as `enable_thinking`.
      asks_for_answer: the text ends where an answer begins.
      continues: the text ends inside the last message, which the model goes on with.

    Raises:
      ConversationError: a rule is broken.
    """

    messages: Sequence[Message]
    tools: Sequence[JsonValue] | None = None
    documents: Sequence[JsonValue] | None = None
    kwargs: Mapping[str, JsonValue] = field(default_factory=dict)
    asks_for_answer: bool = True
    continues: bool = False

    def __post_init__(self) -> None:
        if self.continues and self.asks_for_answer:
            raise ConversationError(
                "continues",
                "ends the text inside the last message, and asks_for_answer behind it; "
                "choose one",
            )
        if self.continues and not _ends_with_text(self.messages):
            raise ConversationError(
                "continues", "needs a last message that has a text to go on with"
            )
        _check_kwargs(self.kwargs)

    def strings(self) -> list[str]:
        """Returns all strings that a user may have written, keys of objects too.

        Raises:
          ConversationError: a part is nested too deeply.
        """
        said = [
            [value for key, value in message.items() if key != "role"]
            for message in self.messages
        ]
        parts: dict[str, JsonValue] = {
            "messages": [value for values in said for value in values],
            "tools": self.tools,
            "documents": self.documents,
            "kwargs": list(self.kwargs.values()),
        }
        found: list[str] = []
        for part, value in parts.items():
            try:
                found += collect_strings(value)
            except ValueError as error:
                raise ConversationError(part, str(error)) from error
        return found


def text_parts(content: JsonValue) -> list[Mapping[str, JsonValue]]:
    """Returns the parts of a content that have a text; none of one in one piece."""
    if isinstance(content, str) or not isinstance(content, Sequence):
        return []
    parts = [part for part in content if isinstance(part, Mapping)]
    return [part for part in parts if isinstance(part.get("text"), str)]


def _ends_with_text(messages: Sequence[Message]) -> bool:
    content = messages[-1].get("content") if messages else None
    return isinstance(content, str) or bool(text_parts(content))


def _check_kwargs(kwargs: Mapping[str, JsonValue]) -> None:
    if not (len(kwargs) <= MAX_KWARGS):
        raise ConversationError(
            "kwargs", f"may have at most {MAX_KWARGS} names, got {len(kwargs)}"
        )
    for name in kwargs:
        if name in _RESERVED or name.endswith("_token"):  # "bos_token" and the like
            raise ConversationError(
                "kwargs",
                f"may not have {name!r}, which the server says itself; leave it out",
            )
        if not _NAME.fullmatch(name):
            raise ConversationError(
                "kwargs",
                "must have names of 1 to 64 letters, digits and _ that begin with a "
                f"letter, got {name!r:.100}",
            )
    try:
        num_chars = len(json.dumps(kwargs, ensure_ascii=False))
    except RecursionError as error:
        raise ConversationError("kwargs", "are nested too deeply") from error
    if not (num_chars <= MAX_KWARGS_CHARS):
        raise ConversationError(
            "kwargs",
            f"may have at most {MAX_KWARGS_CHARS} characters of JSON, got {num_chars}",
        )

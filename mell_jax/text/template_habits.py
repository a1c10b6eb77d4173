"""Templates differ in what they read; what one does is found by trying.

    content   parts of text, which some templates loop over and others print as Python
    calls     arguments as an object ("| tojson") or as text ("+ arguments"), and what
              stands for a content that is not there

Each is tried with a small conversation, once, when a conversation first needs it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

from mell_jax.text.chat_template import ChatTemplateError, Variables
from mell_jax.text.marks import make_digits

MAX_PROBE_CHARS = 100_000


class Renderer(Protocol):
    """Makes the text of a conversation; see `ChatTemplate.render`."""

    def render(self, variables: Variables, *, max_chars: int) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStyle:
    """A template wants a message that calls tools in this way.

    Attributes:
      empty: what a message without a content has in its place: `{}` for nothing, or
        `{"content": None}`.
      has_text_arguments: arguments are JSON in a string, else an object.
    """

    empty: Mapping[str, str | None]
    has_text_arguments: bool = False


_EMPTIES: tuple[dict[str, str | None], ...] = ({}, {"content": None}, {"content": ""})
_STYLES = [
    CallStyle(empty=empty, has_text_arguments=is_text)
    for is_text in (False, True)
    for empty in _EMPTIES
]


@final
class TemplateHabits:
    """One template does this and that; any thread may ask."""

    def __init__(self, template: Renderer) -> None:
        self._template = template
        self._style: CallStyle | None = None
        self._reads_parts: dict[str, bool] = {}

    def call_style(self) -> CallStyle:
        """Returns the first way in which a call's name and arguments are written.

        That is transformers' own where it works: arguments as an object, and no key for
        a content that is not there; it is returned as well for a template that writes
        no calls at all.
        """
        if self._style is None:
            works = (style for style in _STYLES if self._writes_calls(style))
            self._style = next(works, _STYLES[0])
        return self._style

    def reads_parts(self, role: str) -> bool:
        """Tells whether a message of a role may have a list of parts as its content."""
        if role not in self._reads_parts:
            self._reads_parts[role] = self._writes_parts(role)
        return self._reads_parts[role]

    def try_out(self, messages: list[dict[str, Any]]) -> str:
        """Returns the text of a conversation, none when the template refuses it."""
        variables = Variables(messages=messages, asks_for_answer=False)
        try:
            return self._template.render(variables, max_chars=MAX_PROBE_CHARS)
        except ChatTemplateError:
            return ""

    def _writes_calls(self, style: CallStyle) -> bool:
        name, value = f"f{make_digits()}", make_digits()
        text = self.try_out(_calling(style, name=name, value=value))
        return name in text and value in text

    def _writes_parts(self, role: str) -> bool:
        first, second = make_digits(), make_digits()
        message = {
            "role": role,
            "content": [{"type": "text", "text": each} for each in (first, second)],
        }
        user = {"role": "user", "content": "a"}
        before = {
            "system": [],
            "user": [],
            "tool": _calling(self.call_style(), name="f", value="b")[:-1],
        }
        after = {"system": [user]}
        around = [*before.get(role, [user]), message, *after.get(role, [])]
        if role == "tool":
            message |= {"tool_call_id": _ID, "name": "f"}
        _, has_first, rest = self.try_out(around).partition(first)
        between, has_second, _ = rest.partition(second)
        return bool(has_first and has_second) and "type" not in between


_ID = "call00001"  # nine letters and digits, as Mistral's templates want it


def _calling(style: CallStyle, *, name: str, value: str) -> list[dict[str, Any]]:
    """A conversation with a call and its result."""
    arguments = f'{{"k": "{value}"}}' if style.has_text_arguments else {"k": value}
    function = {"name": name, "arguments": arguments}
    call = {"id": _ID, "type": "function", "function": function}
    return [
        {"role": "user", "content": "a"},
        {"role": "assistant", **style.empty, "tool_calls": [call]},
        {"role": "tool", "content": "b", "tool_call_id": _ID, "name": name},
    ]

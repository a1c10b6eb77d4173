"""Turns put what comes one by one into messages: an assistant's turn is one message.

think("so 2"), answer("I add."), call(id="a", ...), result(id="a", text="2")
-> [{"role": "assistant", "reasoning_content": "so 2", "content": "I add.",
     "tool_calls": [...]}, {"role": "tool", "tool_call_id": "a", "content": "2"}]
"""

from typing import Any, final

from mell_jax.serving.chat.wish import Json

MAX_PARTS = 16_384
"""A conversation may have so many items or blocks; no template is asked about more."""


class UnknownCallError(LookupError):
    """A result is of no call that came before it."""


@final
class Turns:
    """Turns are the messages of a conversation, made from its beginning."""

    def __init__(self) -> None:
        self._messages: list[Json] = []
        self._turn: dict[str, Any] | None = None  # of the assistant, not over
        self._called: set[str] = set()

    def say(self, text: str, *, role: str) -> None:
        """Adds a message of somebody else than the assistant."""
        self.close()
        self._messages.append({"role": role, "content": text})

    def think(self, text: str) -> None:
        """Adds a thought of the assistant's; one after an answer begins a turn."""
        turn = self._open(unless_has=("content", "tool_calls"))
        known = turn.get("reasoning_content")
        turn["reasoning_content"] = text if known is None else f"{known}\n{text}"

    def answer(self, text: str) -> None:
        """Adds an answer of the assistant's; a second one begins a turn."""
        self._open(unless_has=("content", "tool_calls"))["content"] = text

    def call(self, *, id: str, name: str, arguments: str) -> None:
        """Adds a call of the assistant's; `arguments` are JSON text."""
        function = {"name": name, "arguments": arguments}
        turn = self._open()
        turn.setdefault("tool_calls", []).append(
            {"id": id, "type": "function", "function": function}
        )
        self._called.add(id)

    def result(self, text: str, *, id: str) -> None:
        """Adds the result of a call.

        Raises:
          UnknownCallError: no call before it has this id.
        """
        if id not in self._called:
            raise UnknownCallError(id)
        self.close()
        self._messages.append({"role": "tool", "tool_call_id": id, "content": text})

    def close(self) -> None:
        """Ends the assistant's turn, if it has one."""
        if self._turn is not None:
            self._messages.append({"role": "assistant", "content": None, **self._turn})
            self._turn = None

    def messages(self) -> tuple[Json, ...]:
        """Returns all messages, and ends the last turn."""
        self.close()
        return tuple(self._messages)

    def _open(self, *, unless_has: tuple[str, ...] = ()) -> dict[str, Any]:
        """Returns the assistant's turn: a new one if it has any of these already."""
        if self._turn is not None and not self._turn.keys().isdisjoint(unless_has):
            self.close()
        if self._turn is None:
            self._turn = {}
        return self._turn

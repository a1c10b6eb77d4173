"""Items of a response's output: each knows its events and itself as JSON.

    added  [part added]  delta  delta  text done  [part done]  item done

Only the last item of a response is open; it ends before the next one begins.
"""

from dataclasses import dataclass, field
from typing import Protocol, final

from mell_jax.serving.chat.wish import Json
from mell_jax.serving.openai.responses.conversation import seal

Events = list[tuple[str, Json]]
"""Names of events and what they say."""


class Item(Protocol):
    """An item of the output grows by pieces of text until it ends."""

    def begin(self) -> Events:
        """Returns the events of its beginning."""
        ...

    def add(self, piece: str) -> Events:
        """Returns the events of a piece of its text."""
        ...

    def end(self, status: str) -> Events:
        """Returns the events of its end."""
        ...

    def json(self, status: str) -> Json:
        """Returns the item as it is by now."""
        ...


@final
@dataclass(slots=True, kw_only=True)
class Message:
    """The answer proper, or a part of it between calls."""

    id: str
    index: int
    _pieces: list[str] = field(default_factory=list)

    def begin(self) -> Events:
        """Returns the events of its beginning."""
        added = {**self.json("in_progress"), "content": []}
        return [
            ("response.output_item.added", {**_at(self), "item": added}),
            ("response.content_part.added", {**_inside(self), "part": self._part()}),
        ]

    def add(self, piece: str) -> Events:
        """Returns the events of a piece of its text."""
        self._pieces.append(piece)
        told = {**_inside(self), "delta": piece, "logprobs": []}
        return [("response.output_text.delta", told)]

    def end(self, status: str) -> Events:
        """Returns the events of its end."""
        part = self._part()
        done = {**_inside(self), "text": part["text"], "logprobs": []}
        return [
            ("response.output_text.done", done),
            ("response.content_part.done", {**_inside(self), "part": part}),
            _item_done(self, status),
        ]

    def json(self, status: str) -> Json:
        """Returns the item as it is by now."""
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [self._part()],
        }

    def _part(self) -> Json:
        text = "".join(self._pieces)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


@final
@dataclass(slots=True, kw_only=True)
class Reasoning:
    """A thought, told as it is.

    Attributes:
      is_sealed: it comes once more as `encrypted_content`.
    """

    id: str
    index: int
    is_sealed: bool
    _pieces: list[str] = field(default_factory=list)

    def begin(self) -> Events:
        """Returns the events of its beginning."""
        added = {**self.json("in_progress"), "content": []}
        return [
            ("response.output_item.added", {**_at(self), "item": added}),
            ("response.content_part.added", {**_inside(self), "part": self._part()}),
        ]

    def add(self, piece: str) -> Events:
        """Returns the events of a piece of its text."""
        self._pieces.append(piece)
        return [("response.reasoning_text.delta", {**_inside(self), "delta": piece})]

    def end(self, status: str) -> Events:
        """Returns the events of its end."""
        part = self._part()
        done = {**_inside(self), "text": part["text"]}
        return [
            ("response.reasoning_text.done", done),
            ("response.content_part.done", {**_inside(self), "part": part}),
            _item_done(self, status),
        ]

    def json(self, status: str) -> Json:
        """Returns the item as it is by now."""
        part = self._part()
        sealed = seal(part["text"]) if self.is_sealed else None
        return {
            "id": self.id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "content": [part],
            "encrypted_content": sealed,
        }

    def _part(self) -> Json:
        return {"type": "reasoning_text", "text": "".join(self._pieces)}


@final
@dataclass(slots=True, kw_only=True)
class FunctionCall:
    """A call of a function, whose text are its arguments."""

    id: str
    index: int
    call_id: str
    name: str
    _pieces: list[str] = field(default_factory=list)

    def begin(self) -> Events:
        """Returns the events of its beginning."""
        added = {**_at(self), "item": self.json("in_progress")}
        return [("response.output_item.added", added)]

    def add(self, piece: str) -> Events:
        """Returns the events of a piece of its arguments."""
        self._pieces.append(piece)
        told = {**_at(self), "item_id": self.id, "delta": piece}
        return [("response.function_call_arguments.delta", told)]

    def end(self, status: str) -> Events:
        """Returns the events of its end."""
        done = {
            **_at(self),
            "item_id": self.id,
            "name": self.name,
            "arguments": "".join(self._pieces),
        }
        return [
            ("response.function_call_arguments.done", done),
            _item_done(self, status),
        ]

    def json(self, status: str) -> Json:
        """Returns the item as it is by now."""
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "arguments": "".join(self._pieces),
            "call_id": self.call_id,
            "name": self.name,
        }


def _at(item: Message | Reasoning | FunctionCall) -> Json:
    return {"output_index": item.index}


def _inside(item: Message | Reasoning) -> Json:
    return {"item_id": item.id, "output_index": item.index, "content_index": 0}


def _item_done(
    item: Message | Reasoning | FunctionCall, status: str
) -> tuple[str, Json]:
    return ("response.output_item.done", {**_at(item), "item": item.json(status)})

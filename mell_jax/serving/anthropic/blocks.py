"""Blocks of a message's content: each knows its deltas and itself as JSON."""

from dataclasses import dataclass, field
from typing import Protocol, final

import msgspec

from mell_jax.serving.chat.wish import Json

SIGNATURE = "mell_jax"
"""Every thought has a signature, without which clients do not send it back; nobody
looks at it."""


class Block(Protocol):
    """A block grows by pieces of text until it stops."""

    def first(self) -> Json:
        """Returns the block as a stream begins it."""
        ...

    def add(self, piece: str) -> Json:
        """Returns the delta of a piece of its text."""
        ...

    def last(self) -> Json | None:
        """Returns the delta that ends it, if there is one."""
        ...

    def json(self) -> Json:
        """Returns the block as it is by now."""
        ...


@final
@dataclass(slots=True)
class Text:
    """The answer proper, or a part of it between uses of tools."""

    _pieces: list[str] = field(default_factory=list)

    def first(self) -> Json:
        """Returns the block as a stream begins it."""
        return self.json()

    def add(self, piece: str) -> Json:
        """Returns the delta of a piece of its text."""
        self._pieces.append(piece)
        return {"type": "text_delta", "text": piece}

    def last(self) -> Json | None:
        """Returns nothing: it just ends."""
        return None

    def json(self) -> Json:
        """Returns the block as it is by now."""
        return {"type": "text", "text": "".join(self._pieces), "citations": None}


@final
@dataclass(slots=True)
class Thinking:
    """A thought, told as it is."""

    _pieces: list[str] = field(default_factory=list)

    def first(self) -> Json:
        """Returns the block as a stream begins it."""
        return {**self.json(), "signature": ""}

    def add(self, piece: str) -> Json:
        """Returns the delta of a piece of its text."""
        self._pieces.append(piece)
        return {"type": "thinking_delta", "thinking": piece}

    def last(self) -> Json | None:
        """Returns the signature."""
        return {"type": "signature_delta", "signature": SIGNATURE}

    def json(self) -> Json:
        """Returns the block as it is by now."""
        thought = "".join(self._pieces)
        return {"type": "thinking", "thinking": thought, "signature": SIGNATURE}


@final
@dataclass(slots=True, kw_only=True)
class ToolUse:
    """A use of a tool, whose text is its input."""

    id: str
    name: str
    _pieces: list[str] = field(default_factory=list)

    def first(self) -> Json:
        """Returns the block as a stream begins it: the input comes by its text."""
        return {"type": "tool_use", "id": self.id, "name": self.name, "input": {}}

    def add(self, piece: str) -> Json:
        """Returns the delta of a piece of its input."""
        self._pieces.append(piece)
        return {"type": "input_json_delta", "partial_json": piece}

    def last(self) -> Json | None:
        """Returns nothing: it just ends."""
        return None

    def json(self) -> Json:
        """Returns the block as it is by now."""
        return {**self.first(), "input": input_of("".join(self._pieces))}


def input_of(arguments: str) -> Json:
    """Returns an object even where a call was cut off inside its arguments.

    Their text is then under a key that Anthropic uses for it.
    """
    if not arguments.strip(" \t\r\n"):
        return {}
    try:
        value: Json = msgspec.json.decode(arguments, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return {"INVALID_JSON": arguments}
    return value

"""Events are what a parser finds in an answer, in the order of its text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """The answer goes on by this text, which belongs to no call."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """The model thinks this."""

    text: str


@dataclass(frozen=True, slots=True)
class Recast:
    """All that was said so far was a thought: its end came without its beginning."""


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A tool is called; its arguments follow. Calls are numbered from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArgued:
    """The arguments of a call, which are JSON text, go on by this piece."""

    index: int
    piece: str


@dataclass(frozen=True, slots=True)
class CallDropped:
    """A call that began is none: it broke off. It is this text; its number is used."""

    index: int
    text: str


Event = Said | Thought | Recast | CallBegan | CallArgued | CallDropped

"""Makes one answer of the events of its whole text."""

from collections.abc import Iterable
from dataclasses import dataclass

from mell_jax.text.answers.events import (
    CallArgued,
    CallBegan,
    CallDropped,
    Event,
    Recast,
    Said,
    Thought,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool is called with arguments, which are JSON text.

    They end early where the answer was cut off inside them, as by its length.
    """

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer in its parts."""

    thought: str
    text: str
    calls: tuple[Call, ...]


def collect(events: Iterable[Event]) -> Answer:
    """Returns the answer that events make, without the calls that were dropped."""
    thought, text = list[str](), list[str]()
    names, pieces = dict[int, str](), dict[int, list[str]]()
    for event in events:
        match event:
            case Said(text=piece):
                text.append(piece)
            case Thought(text=piece):
                thought.append(piece)
            case Recast():
                thought, text = [*thought, *text], []
            case CallBegan(index=index, name=name):
                names[index], pieces[index] = name, []
            case CallArgued(index=index, piece=piece):
                pieces[index].append(piece)
            case CallDropped(index=index, text=piece):
                del names[index]
                text.append(piece)
    calls = (
        Call(name=name, arguments="".join(pieces[index]))
        for index, name in names.items()
    )
    return Answer(thought="".join(thought), text="".join(text), calls=tuple(calls))

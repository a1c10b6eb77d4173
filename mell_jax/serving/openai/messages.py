"""The parts of a piece become a message, or the deltas of one in a stream.

    Said -> content    Thought -> reasoning_content, reasoning    calls -> tool_calls

A call's id, type and name come first, then its arguments in pieces, as OpenAI has it.
"""

import itertools
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import final

from mell_jax.serving.openai.samples import Piece
from mell_jax.text.answers import (
    CallArgued,
    CallBegan,
    CallDropped,
    Event,
    Said,
    Thought,
    collect,
)

Json = Mapping[str, object]


def whole_message(piece: Piece) -> Json:
    """Returns the message of a whole choice."""
    message: dict[str, object] = {"role": "assistant", "refusal": None}
    if piece.events is None:
        return {**message, "content": piece.text}
    answer = collect(piece.events)
    message["content"] = answer.text or (None if answer.calls else "")
    if answer.thought:
        message |= _thought(answer.thought)
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": _new_id(),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.calls
        ]
    return message


def finish_reason(piece: Piece) -> str | None:
    """Returns why a whole choice ended: by calls, where it has some."""
    if piece.finish_reason != "stop" or piece.events is None:
        return piece.finish_reason
    return "tool_calls" if collect(piece.events).calls else "stop"


@final
class CallWriter:
    """Writes the deltas of one choice, and remembers which calls it has."""

    def __init__(self) -> None:
        self._open: set[int] = set()  # calls that began and were not dropped
        self._numbers: dict[int, int] = {}  # as the client counts them

    def deltas(self, piece: Piece) -> list[Json]:
        """Returns what is new, in its order; an empty one where tokens alone are."""
        if piece.events is None:
            return [{"content": piece.text}]
        kinds = itertools.groupby(piece.events, key=_kind)
        deltas = [delta for _, events in kinds if (delta := self._delta(tuple(events)))]
        if not deltas and piece.is_first:
            return [{"content": ""}]
        return deltas or ([{}] if _tells_more(piece) else [])

    def finish_reason(self, piece: Piece) -> str | None:
        """Returns why the choice ended, with its last piece."""
        is_calling = piece.finish_reason == "stop" and self._open
        return "tool_calls" if is_calling else piece.finish_reason

    def _delta(self, events: Sequence[Event]) -> Json:
        match events[0]:
            case Said():
                return {"content": _text(events)}
            case Thought():
                return _thought(_text(events))
            case CallBegan(index=index, name=name):
                self._open.add(index)
                number = self._numbers[index] = len(self._numbers)
                function = {"name": name, "arguments": ""}
                call = {"index": number, "id": _new_id(), "type": "function"}
                return {"tool_calls": [{**call, "function": function}]}
            case CallArgued(index=index):
                pieces = (e.piece for e in events if isinstance(e, CallArgued))
                function = {"arguments": "".join(pieces)}
                number = self._numbers[index]
                return {"tool_calls": [{"index": number, "function": function}]}
            case CallDropped(index=index, text=text):
                self._open.discard(index)
                return {"content": text}
        return {}  # what was said cannot be taken back


def _tells_more(piece: Piece) -> bool:
    """Tells whether there is more in a piece than text."""
    told = (piece.finish_reason, piece.words, piece.token_ids)
    return any(each is not None for each in told)


def _kind(event: Event) -> tuple[object, ...]:
    """Events of one kind are told together, those of calls by call."""
    if isinstance(event, CallBegan | CallArgued | CallDropped):
        return type(event), event.index
    return (type(event),)


def _text(events: Iterable[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, Said | Thought))


def _thought(text: str) -> dict[str, object]:
    """The two names that clients know."""
    return {"reasoning_content": text, "reasoning": text}


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"

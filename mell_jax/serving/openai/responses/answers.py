"""The steps of an answer become a response object, and the events that build it up.

    created in_progress (added ... done)* completed | incomplete | failed

What a stream has told stays told: what is recast later, or a call that is dropped,
ends as an item of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from mell_jax.serving.chat.events import (
    Begun,
    CallArgued,
    CallBegan,
    CallDropped,
    Ended,
    Event,
    Recast,
    Said,
    Thought,
    Usage,
)
from mell_jax.serving.chat.teller import Told
from mell_jax.serving.chat.wish import Json
from mell_jax.serving.http.errors import Failure
from mell_jax.serving.openai.responses.items import (
    Events,
    FunctionCall,
    Item,
    Message,
    Reasoning,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHeading:
    """Every response object of one answer begins with this.

    Attributes:
      key: of letters and digits; all ids are made of it.
      created_s: seconds of the wall clock.
      model: that answers.
      repeated: of the request.
      seals_thoughts: they come as `encrypted_content`, too.
    """

    key: str
    created_s: int
    model: str
    repeated: Json
    seals_thoughts: bool


@final
class ResponseTeller:
    """Tells of an answer in the words of the Responses API."""

    def __init__(self, heading: ResponseHeading) -> None:
        """Starts with nothing told."""
        self._heading = heading
        self._num_told = 0
        self._output: list[Json] = []  # items that have ended
        self._item: Item | None = None  # the open one
        self._whole: Json = self._object("in_progress")

    def begin(self, begun: Begun) -> Sequence[Told]:
        """Returns what a stream begins with; the client is told of usage at the end."""
        response = {"response": self._object("in_progress")}
        return self._told(
            [("response.created", response), ("response.in_progress", response)]
        )

    def tell(self, event: Event) -> Sequence[Told]:
        """Returns what a stream tells of an event."""
        return self._told(self._events_of(event))

    def end(self, ended: Ended) -> Sequence[Told]:
        """Returns what a stream ends with; an answer of nothing is an empty message."""
        is_nothing = self._item is None and not self._output
        events = self._open(self._message) if is_nothing else []
        status = "incomplete" if ended.is_cut else "completed"
        events += self._close(status)
        self._whole = self._object(status, usage=ended.usage)
        events.append((f"response.{status}", {"response": self._whole}))
        return self._told(events)

    def fail(self, failure: Failure) -> Sequence[Told]:
        """Returns the end of a stream that failed: an item that is open stays so."""
        error = {"code": _code_of(failure), "message": failure.message}
        self._whole = self._object("failed", error=error)
        plain = {**error, "param": failure.field or None}
        return self._told(
            [("error", plain), ("response.failed", {"response": self._whole})]
        )

    def whole(self) -> Json:
        """Returns the response as it ended."""
        return self._whole

    def _events_of(self, event: Event) -> Events:
        match event:
            case Said(text=text):
                return self._grow(text, kind=Message, make=self._message)
            case Thought(text=text):
                return self._grow(text, kind=Reasoning, make=self._thought)
            case CallBegan():
                return self._open(lambda index: self._call(event, index=index))
            case CallArgued(piece=piece):
                assert isinstance(self._item, FunctionCall), self._item
                return self._add(piece)
            case CallDropped(text=text):
                return [*self._close("incomplete"), *self._events_of(Said(text))]
            case Recast():
                return self._close("completed")

    def _message(self, index: int) -> Message:
        return Message(id=self._id("msg", index), index=index)

    def _thought(self, index: int) -> Reasoning:
        is_sealed = self._heading.seals_thoughts
        return Reasoning(id=self._id("rs", index), index=index, is_sealed=is_sealed)

    def _call(self, began: CallBegan, *, index: int) -> FunctionCall:
        return FunctionCall(
            id=self._id("fc", index),
            index=index,
            call_id=self._id("call", began.index),
            name=began.name,
        )

    def _id(self, prefix: str, number: int) -> str:
        return f"{prefix}_{self._heading.key}{number:04d}"

    def _grow(
        self, text: str, *, kind: type[Item], make: Callable[[int], Item]
    ) -> Events:
        """Adds text to the open item if it is of that kind, else to one behind it."""
        if not text:
            return []
        opened = [] if type(self._item) is kind else self._open(make)
        return [*opened, *self._add(text)]

    def _add(self, piece: str) -> Events:
        assert self._item is not None
        return self._item.add(piece) if piece else []

    def _open(self, make: Callable[[int], Item]) -> Events:
        """Begins an item, of which `make` is told its place, behind those before it."""
        events = self._close("completed")
        self._item = make(len(self._output))
        return events + self._item.begin()

    def _close(self, status: str) -> Events:
        """Ends the open item, if there is one."""
        if self._item is None:
            return []
        item, self._item = self._item, None
        self._output.append(item.json(status))
        return item.end(status)

    def _told(self, events: Events) -> list[Told]:
        """Returns events with their types and numbers."""
        told = []
        for name, said in events:
            data = {"type": name, "sequence_number": self._num_told, **said}
            told.append(Told(name=name, data=data))
            self._num_told += 1
        return told

    def _object(
        self, status: str, *, usage: Usage | None = None, error: Json | None = None
    ) -> Json:
        is_cut = status == "incomplete"
        return {
            "id": f"resp_{self._heading.key}",
            "object": "response",
            "created_at": self._heading.created_s,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "model": self._heading.model,
            "output": list(self._output),
            "usage": None if usage is None else _usage(usage),
            **self._heading.repeated,
        }


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thought_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _code_of(failure: Failure) -> str:
    """Returns one of the few codes that a response's error may have."""
    if failure.status == 429:
        return "rate_limit_exceeded"
    return "server_error" if failure.status >= 500 else "invalid_prompt"

"""The steps of an answer become a message, and the events that build it up.

    message_start ping (block_start delta* block_stop)* message_delta message_stop

What a stream has told stays told: what is recast later, or a call that is dropped,
ends as a block of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from mell_jax.serving.anthropic.blocks import Block, Text, Thinking, ToolUse
from mell_jax.serving.anthropic.errors import error_object
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageHeading:
    """Every message begins with this.

    Attributes:
      key: of letters and digits; all ids are made of it.
      model: that answers.
    """

    key: str
    model: str


@final
class MessageTeller:
    """Tells of an answer in the words of the Messages API."""

    def __init__(self, heading: MessageHeading) -> None:
        """Starts with nothing told."""
        self._heading = heading
        self._content: list[Json] = []  # blocks that have stopped
        self._block: Block | None = None  # the open one
        self._num_calls = 0  # that were not dropped
        self._whole: Json = {}

    def begin(self, begun: Begun) -> Sequence[Told]:
        """Returns what a stream begins with."""
        message = self._message(_usage(begun.usage))
        return [_told("message_start", message=message), _told("ping")]

    def tell(self, event: Event) -> Sequence[Told]:
        """Returns what a stream tells of an event."""
        match event:
            case Said(text=text):
                return self._grow(text, into=Text())
            case Thought(text=text):
                return self._grow(text, into=Thinking())
            case CallBegan(index=index, name=name):
                self._num_calls += 1
                use_id = f"toolu_{self._heading.key}{index:04d}"
                return self._open(ToolUse(id=use_id, name=name))
            case CallArgued(piece=piece):
                assert isinstance(self._block, ToolUse), self._block
                return self._add(piece)
            case CallDropped(text=text):
                self._num_calls -= 1
                return [*self._stop(), *self.tell(Said(text))]
            case Recast():
                return self._stop()

    def end(self, ended: Ended) -> Sequence[Told]:
        """Returns what a stream ends with."""
        stopped = self._stop()
        reason = self._reason(ended)
        ending = {
            "stop_reason": reason,
            "stop_sequence": ended.stop_string if reason == "stop_sequence" else None,
        }
        usage = _usage(ended.usage)
        self._whole = {**self._message(usage), **ending}
        return [
            *stopped,
            _told("message_delta", delta=ending, usage=usage),
            _told("message_stop"),
        ]

    def fail(self, failure: Failure) -> Sequence[Told]:
        """Returns the end of a stream that failed."""
        return [Told(name="error", data=error_object(failure))]

    def whole(self) -> Json:
        """Returns the message as it ended."""
        return self._whole

    def _reason(self, ended: Ended) -> str:
        if ended.is_cut:
            return "max_tokens"
        if self._num_calls:
            return "tool_use"
        return "end_turn" if ended.stop_string is None else "stop_sequence"

    def _grow(self, text: str, *, into: Block) -> list[Told]:
        """Adds text to the open block if it is of that kind, else to the new one."""
        if not text:
            return []
        opened = [] if type(self._block) is type(into) else self._open(into)
        return [*opened, *self._add(text)]

    def _add(self, piece: str) -> list[Told]:
        assert self._block is not None
        if not piece:
            return []
        return [self._at("content_block_delta", delta=self._block.add(piece))]

    def _open(self, block: Block) -> list[Told]:
        stopped = self._stop()
        self._block = block
        return [*stopped, self._at("content_block_start", content_block=block.first())]

    def _stop(self) -> list[Told]:
        """Ends the open block, if there is one."""
        if self._block is None:
            return []
        last = self._block.last()
        told = [] if last is None else [self._at("content_block_delta", delta=last)]
        told.append(self._at("content_block_stop"))
        self._content.append(self._block.json())
        self._block = None
        return told

    def _at(self, name: str, **said: object) -> Told:
        """Returns an event of the open block."""
        return _told(name, index=len(self._content), **said)

    def _message(self, usage: Json) -> Json:
        return {
            "id": f"msg_{self._heading.key}",
            "type": "message",
            "role": "assistant",
            "model": self._heading.model,
            "content": list(self._content),
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }


def _told(name: str, **said: object) -> Told:
    return Told(name=name, data={"type": name, **said})


def _usage(usage: Usage) -> Json:
    """Returns tokens as Anthropic counts them: those from the cache are apart."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }

"""An answer comes in steps: it begins, goes on in the order of its text, and ends.

Begun  Thought("so 2")  Said("It is ")  Said("2.")  CallBegan(0, "add")
CallArgued(0, '{"a": 1}')  Ended
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mell_jax.text.answers import (
    CallArgued,
    CallBegan,
    CallDropped,
    Event,
    Recast,
    Said,
    Thought,
)

__all__ = [
    "Begun",
    "CallArgued",
    "CallBegan",
    "CallDropped",
    "Ended",
    "Event",
    "Recast",
    "Said",
    "Step",
    "Thought",
    "Usage",
    "settled",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that were read and written so far.

    Attributes:
      prompt_tokens: of the prompt, all of them.
      cached_tokens: of these, those that were computed before.
      completion_tokens: of the answer, its thoughts included.
      thought_tokens: of these, those of thoughts.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0
    thought_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The prompt has been computed, and the answer begins."""

    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The answer ends, its calls included.

    Attributes:
      is_cut: it would have gone on, but for its length.
      stop_string: the string of the client's that ended it.
      usage: of the whole answer.
    """

    is_cut: bool
    usage: Usage
    stop_string: str | None = None


Step = Begun | Event | Ended


def settled(steps: Iterable[Step]) -> Iterator[Step]:
    """Yields the steps of a whole answer without those that take earlier ones back.

    What was recast becomes a thought, and a call that was dropped the text it is.
    """
    kept: list[Step] = []
    for step in steps:
        match step:
            case Recast():
                kept = [
                    Thought(each.text) if isinstance(each, Said) else each
                    for each in kept
                ]
            case CallDropped(index=dropped, text=text):
                kept = [each for each in kept if not _is_of(each, call=dropped)]
                kept.append(Said(text))
            case _:
                kept.append(step)
    yield from kept


def _is_of(step: Step, *, call: int) -> bool:
    return isinstance(step, CallBegan | CallArgued) and step.index == call

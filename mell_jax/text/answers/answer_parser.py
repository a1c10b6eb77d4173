"""Parts one answer into thoughts, text and calls.

    text -> ReasoningParser -> Thought
                            -> Said -> ToolParser -> Said, CallBegan, CallArgued

Calls in thoughts are none.
"""

from collections.abc import Iterable, Iterator
from typing import final

from mell_jax.text.answers.events import Event, Recast, Said
from mell_jax.text.answers.format import ToolFormat, ToolParser
from mell_jax.text.answers.reasoning import Beginning, Reasoning, ReasoningParser
from mell_jax.text.answers.tools import Toolbox


@final
class AnswerParser:
    """A parser of one answer; special tokens stand in its text as they are spelled.

    Args:
        reasoning: of the model; None if it does not think, or nobody asks.
        beginning: where the answer begins; see `find_beginning`.
        form: of tool calls; None if there are none.
        tools: that may be called.
    """

    def __init__(
        self,
        *,
        reasoning: Reasoning | None = None,
        beginning: Beginning = Beginning.BEFORE,
        form: ToolFormat | None = None,
        tools: Toolbox | None = None,
    ) -> None:
        self._reasoning = (
            None if reasoning is None else ReasoningParser(reasoning, beginning)
        )
        self._marks = reasoning
        self._form = form
        self._tools = tools if tools is not None and tools.callable else None
        self._calls = self._new_calls()

    @property
    def spellings(self) -> frozenset[str]:
        """Returns texts that must stand in the answer even if they are special tokens.

        Other special tokens have no business there.
        """
        marks = () if self._marks is None else (self._marks.open, self._marks.close)
        form = self._form if self._tools is not None else None
        return frozenset(marks).union(() if form is None else form.spellings)

    def push(self, text: str) -> tuple[Event, ...]:
        """Returns what is known by this text and was not before."""
        if self._reasoning is None:
            return self._parse(text)
        return tuple(self._sort(self._reasoning.push(text)))

    def finish(self) -> tuple[Event, ...]:
        """Returns what was held back, at the end of the answer."""
        events: tuple[Event, ...] = ()
        if self._reasoning is not None:
            events = tuple(self._sort(self._reasoning.finish()))
        return (*events, *(self._calls.finish() if self._calls else ()))

    def _sort(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            match event:
                case Said(text=text):
                    yield from self._parse(text)
                case Recast():
                    yield from self._recast()
                case _:
                    yield event

    def _recast(self) -> Iterator[Event]:
        """Begins anew, unless tools were called: then the mark is text."""
        if self._calls is None:
            yield Recast()
        elif self._calls.num_calls:
            assert self._marks is not None, "thoughts came from nowhere"
            yield from self._parse(self._marks.close)
        else:
            yield from self._calls.finish()
            self._calls = self._new_calls()
            yield Recast()

    def _parse(self, text: str) -> tuple[Event, ...]:
        if self._calls is None:
            return (Said(text),) if text else ()
        return self._calls.push(text)

    def _new_calls(self) -> ToolParser | None:
        if self._form is None or self._tools is None:
            return None
        return ToolParser(self._form, self._tools)

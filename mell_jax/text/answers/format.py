"""A format of tool calls: how they are read, and the grammar of them.

    free text  --marker-->  block: calls are read as they come
        ^                     |
        +---------------------+   its end, or what is no call: given back as text

A parser's events depend on the text, not on how it is cut.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from mell_jax.grammar import Grammar
from mell_jax.text.answers.calls import Calls
from mell_jax.text.answers.events import Said
from mell_jax.text.answers.layout import Layout, SpecialId, auto, no_special, required
from mell_jax.text.answers.reader import (
    Marks,
    NotACallError,
    Reader,
    StepParser,
    Steps,
    TextEndedError,
)
from mell_jax.text.answers.tools import Choice, Toolbox


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """A model calls tools in this format.

    Attributes:
        name: of the format, for a flag.
        read: reads the calls of a block, whose marker was taken (empty without one).
            It raises `NotACallError`, or `TextEndedError`, at what does not fit.
        layout: how calls are written.
        markers: texts that begin a block, anywhere.
        leads: characters that may begin one at the beginning of the answer only.
    """

    name: str
    read: Callable[[Calls, str], Steps[None]]
    layout: Layout
    markers: tuple[str, ...] = ()
    leads: str = ""

    @property
    def spellings(self) -> frozenset[str]:
        """Returns texts that must stand in an answer, special tokens or not."""
        return frozenset((*self.markers, *self.layout.markers))

    def grammar(
        self, tools: Toolbox, *, special_id: SpecialId = no_special
    ) -> Grammar | None:
        """Returns the texts that an answer may be; None if any.

        Where tools must be called there is nothing but calls; otherwise any text in
        which a call that has begun is one of these tools.

        Args:
            tools: with the choice among them.
            special_id: the id of a text that is a special token, None if it is none.

        Raises:
            GrammarError: this format cannot write the arguments of a tool.
        """
        called = tuple(tools.callable.values())
        if not called:
            return None
        write = auto if tools.choice.kind is Choice.AUTO else required
        return write(
            self.layout, called, is_parallel=tools.is_parallel, special_id=special_id
        )


@final
class ToolParser(StepParser):
    """A parser finds the calls in one answer; special tokens stand in it as spelled."""

    def __init__(self, form: ToolFormat, tools: Toolbox) -> None:
        reader = Reader()
        self._calls = Calls(reader, tools.callable)
        super().__init__(reader, _read_answer(form, self._calls))

    @property
    def num_calls(self) -> int:
        """Returns how many calls have begun, dropped ones too."""
        return self._calls.num_begun


def _read_answer(form: ToolFormat, calls: Calls) -> Steps[None]:
    reader, marks = calls.reader, Marks(form.markers)
    is_beside_call = False
    if form.leads and (yield from _has_lead(reader, form.leads)):
        is_beside_call = yield from _read_block(form, calls, "")
    while True:
        marker = yield from _read_text(reader, marks, is_beside_call=is_beside_call)
        if not marker:
            return
        is_beside_call = yield from _read_block(form, calls, marker)


def _has_lead(reader: Reader, leads: str) -> Steps[bool]:
    """Returns whether the answer begins with a lead; white space before it is taken."""
    while not (text := reader.rest.lstrip()) and not reader.is_ended:
        yield None
    if text[:1] not in (*leads,):
        return False
    reader.skip(len(reader.rest) - len(text))
    return True


def _read_text(reader: Reader, marks: Marks, *, is_beside_call: bool) -> Steps[str]:
    """Tells of free text up to a marker, which is taken and returned; empty at the end.

    White space beside a call, on either side, is no text.
    """
    while True:
        text = reader.rest
        found = marks.find(text)
        before = text[: found.start() if found else len(text) - marks.num_held(text)]
        is_last = found is None and reader.is_ended
        free = len(text) if is_last else len(before.rstrip())
        if free and not (is_beside_call and not text.strip()):
            is_beside_call = False
            yield Said(text[:free])
        reader.skip(free)
        reader.forget()
        if found is not None:
            reader.skip(found.end() - free)
            return found.group()
        if is_last:
            return ""
        yield None


def _read_block(form: ToolFormat, calls: Calls, marker: str) -> Steps[bool]:
    """Tells of the calls of a block; returns whether it has one and is whole."""
    reader, begun = calls.reader, calls.num_begun
    try:
        yield from form.read(calls, marker)
    except NotACallError:
        yield from calls.drop()
        return False
    except TextEndedError:
        if calls.is_open:
            yield from calls.cut_off()
        else:
            reader.skip(len(reader.rest))
            if calls.num_begun == begun or reader.raw.strip():
                yield from calls.drop()
    reader.forget()
    return calls.num_begun > begun

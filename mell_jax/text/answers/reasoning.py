"""Parts what a model thinks from what it says.

    <think>
    Let me see.        ->  Thought("Let me see.")  Said("42")
    </think>

    42

The prompt may have begun the block, or closed it.
"""

from dataclasses import dataclass
from enum import Enum
from typing import final

from mell_jax.grammar import Grammar
from mell_jax.text.answers.events import Recast, Said, Thought
from mell_jax.text.answers.layout import SpecialId, no_special
from mell_jax.text.answers.reader import Marks, Reader, StepParser, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """A model writes its thoughts between two marks."""

    open: str
    close: str


class Beginning(Enum):
    """An answer begins inside a block of thoughts, before one if any, or after it."""

    INSIDE = "inside"
    BEFORE = "before"
    AFTER = "after"


_KNOWN = (
    Reasoning(open="<think>", close="</think>"),
    Reasoning(open="<seed:think>", close="</seed:think>"),
    Reasoning(open="[THINK]", close="[/THINK]"),
)


def find_reasoning(template_source: str) -> Reasoning | None:
    """Returns the marks of thoughts that a chat template knows, if any."""
    return next(
        (
            known
            for known in _KNOWN
            if known.open in template_source or known.close in template_source
        ),
        None,
    )


def find_beginning(
    reasoning: Reasoning, *, prompt: str, continued: str = ""
) -> Beginning:
    """Returns where an answer begins, by the end of its prompt.

    Args:
        reasoning: of the model.
        prompt: as rendered; only its end is looked at, as users write marks, too.
        continued: the beginning of the answer, where the client sent one.
    """
    opened, closed = continued.rfind(reasoning.open), continued.rfind(reasoning.close)
    end = prompt.rstrip()
    if closed > opened or end.endswith(reasoning.close):
        return Beginning.AFTER
    if opened > closed or end.endswith(reasoning.open):
        return Beginning.INSIDE
    return Beginning.AFTER if continued.strip() else Beginning.BEFORE


def behind_thoughts(
    grammar: Grammar,
    reasoning: Reasoning,
    beginning: Beginning,
    *,
    special_id: SpecialId = no_special,
) -> Grammar:
    """Returns a grammar that leaves the thoughts before an answer free.

    Args:
        grammar: of the answer.
        reasoning: of the model.
        beginning: where its text begins.
        special_id: the id of a text that is a special token, None if it is none.
    """
    if beginning is Beginning.AFTER:
        return grammar
    marks = (reasoning.open, reasoning.close)
    ids = (special_id(mark) for mark in marks)
    opening, ending = (
        mark if token is None else token for mark, token in zip(marks, ids, strict=True)
    )
    if beginning is Beginning.INSIDE:
        return grammar.after(ending, gap="\n\n")
    return grammar.after(ending, opening=opening, gap="\n\n")


@final
class ReasoningParser(StepParser):
    """A parser finds the thoughts of one answer; line breaks around them are left out.

    Where no block begins and one ends, what was said before its end is `Recast`.
    """

    def __init__(self, reasoning: Reasoning, beginning: Beginning) -> None:
        reader = Reader()
        super().__init__(reader, _read(reader, reasoning, beginning))


def _read(reader: Reader, marks: Reasoning, beginning: Beginning) -> Steps[None]:
    is_inside = beginning is Beginning.INSIDE
    if beginning is not Beginning.AFTER and (yield from _opens(reader, marks.open)):
        is_inside = True
    if is_inside:
        yield from _skip_breaks(reader)
        if not (yield from _tell(reader, marks.close, Thought)):
            return
        yield from _skip_breaks(reader)
    elif beginning is Beginning.BEFORE:
        if not (yield from _tell(reader, marks.close, Said)):
            return
        yield Recast()
        yield from _skip_breaks(reader)
    yield from _tell(reader, "", Said)


def _opens(reader: Reader, mark: str) -> Steps[bool]:
    """Returns whether the text begins with a mark, which is taken then."""
    while True:
        text = reader.rest.lstrip()
        if text.startswith(mark):
            reader.skip(len(reader.rest) - len(text) + len(mark))
            return True
        if reader.is_ended or not mark.startswith(text):
            return False
        yield None


def _skip_breaks(reader: Reader) -> Steps[None]:
    while not reader.rest.strip("\n") and not reader.is_ended:
        reader.skip(len(reader.rest))
        yield None
    reader.skip(len(reader.rest) - len(reader.rest.lstrip("\n")))


def _tell(reader: Reader, mark: str, kind: type[Said] | type[Thought]) -> Steps[bool]:
    """Tells of text up to a mark, which is taken; returns whether it was there.

    Line breaks before it are left out; the empty mark is nowhere.
    """
    marks = Marks([mark] if mark else [])
    while True:
        text = reader.rest
        found = marks.find(text)
        end = found.start() if found else len(text) - marks.num_held(text)
        is_last = found is None and reader.is_ended
        free = len(text) if is_last else end
        if mark and not (is_last and kind is Said):
            free = len(text[:free].rstrip("\n"))
        if free:
            yield kind(text[:free])
        reader.skip(found.end() if found else len(text) if is_last else free)
        reader.forget()
        if found is not None or is_last:
            return found is not None
        yield None

"""A layout says how calls are written; grammars are made of it.

    block = open  call between call between call  close
    call  = before NAME after ARGUMENTS end

Where tools must be called an answer is a block; otherwise blocks stand in free text,
which ends at what a block begins with.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mell_jax.grammar import Grammar
from mell_jax.grammar.lark import FREE_TEXT, Word, free_text_until, write
from mell_jax.text.answers.tools import Tool

SpecialId = Callable[[str], int | None]
"""Tells the id of a text that is a special token; None if it is none."""
Spell = Callable[[str], tuple[Word, ...]]
"""Parts a text into special tokens and what is between them."""


def no_special(text: str) -> int | None:
    """Returns None: no text is a special token."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """This is how a model writes calls.

    Attributes:
        before: each call's text before the name.
        after: what follows the name.
        end: what follows the arguments.
        arguments: the grammar of a tool's arguments.
        between: what parts two calls of a block.
        open: what a block begins with.
        close: what it ends with.
        trigger: text that a block begins with, at which free text ends; empty if all of
            it up to the arguments is needed to know a call.
        is_lead: whether a block is the whole answer, from its beginning on.
        also: a text at which free text ends, too, and a block begins behind it.
        markers: what may be a special token.
    """

    before: str
    after: str
    end: str
    arguments: Callable[[Tool, Spell], Grammar]
    between: str = ""
    open: str = ""
    close: str = ""
    trigger: str = ""
    is_lead: bool = False
    also: str = ""
    markers: tuple[str, ...] = ()

    @property
    def has_blocks(self) -> bool:
        """Returns whether several calls stand together by more than white space."""
        return self.is_lead or bool(self.open or self.close)


def json_arguments(tool: Tool, _: Spell) -> Grammar:
    """Returns arguments that are written as JSON."""
    return Grammar.from_json_schema(tool.schema)


def required(
    layout: Layout, tools: Sequence[Tool], *, is_parallel: bool, special_id: SpecialId
) -> Grammar:
    """Returns calls and nothing else: one, or several if they may be parallel."""
    rules = _Rules(layout, tools, special_id)
    more = "more*" if is_parallel else ""
    words = (rules.lark(layout.open), "call", more, rules.lark(layout.close))
    lines = [f"start: {' '.join(filter(None, words))}", *rules.calls(more)]
    return Grammar(lark="\n".join(lines) + "\n", parts=rules.parts)


def auto(
    layout: Layout, tools: Sequence[Tool], *, is_parallel: bool, special_id: SpecialId
) -> Grammar:
    """Returns free text in which what begins like a call is one."""
    rules = _Rules(layout, tools, special_id)
    more = "more*" if is_parallel and layout.has_blocks else ""
    lines = [f"free_end: {FREE_TEXT}", *rules.calls(more)]
    tail = " ".join(filter(None, (more, rules.lark(layout.close))))
    heads = dict[str, str]()  # how a block begins, and the rule of it
    blocks = []
    for number, begin in enumerate(rules.begins):
        trigger = layout.trigger or begin
        ways = [(_head(trigger, rules.spell, layout.is_lead), begin[len(trigger) :])]
        if layout.also:
            ways.append((_head(layout.also, rules.spell, False), begin))
        for head, rest in ways:
            name = heads.setdefault(head, f"head_{len(heads)}")
            words = (name, rules.lark(rest), f"args_{number}", tail)
            blocks.append(" ".join(filter(None, words)))
    lines += [f"{name}{head}" for head, name in heads.items()]
    lines += [f"block: {' | '.join(blocks)}"]
    is_repeated = is_parallel and not layout.is_lead
    lines += ["start: block* free_end" if is_repeated else "start: block | free_end"]
    return Grammar(lark="\n".join(lines) + "\n", parts=rules.parts)


def _head(trigger: str, spell: Spell, is_lead: bool) -> str:
    """A rule, without its name, of a trigger and the free text before it."""
    if is_lead:  # lazy: it is known before free text is, which may begin with space
        return f"[lazy]: /[ \\n]{{0,4}}/ {write(spell(trigger))}"
    words = spell(trigger)
    assert len(words) == 1, f"the trigger {trigger!r} must be one token or none"
    attribute, rule = free_text_until(words[0])
    return f"{attribute}: {rule}"


class _Rules:
    """The rules of a layout's calls."""

    def __init__(
        self, layout: Layout, tools: Sequence[Tool], special_id: SpecialId
    ) -> None:
        self._layout = layout
        self._names = [tool.name for tool in tools]
        pattern = "|".join(map(re.escape, layout.markers)) or r"(?!)"
        self._markers = re.compile(f"({pattern})")
        self._special_id = special_id
        self.parts = tuple(
            part
            for number, tool in enumerate(tools)
            for part in layout.arguments(tool, self.spell).as_parts(f"part_{number}")
        )

    @property
    def begins(self) -> list[str]:
        """A block that begins with a call of each tool, up to its arguments."""
        layout = self._layout
        return [
            f"{layout.open}{layout.before}{name}{layout.after}" for name in self._names
        ]

    def spell(self, text: str) -> tuple[Word, ...]:
        """Parts a text into special tokens and what is between them."""
        words = list[Word]()
        for piece in filter(None, self._markers.split(text)):
            found = self._special_id(piece) if self._markers.match(piece) else None
            last = words[-1] if words else None
            if found is None and isinstance(last, str):
                words[-1] = last + piece
            else:
                words.append(piece if found is None else found)
        return tuple(words)

    def lark(self, text: str) -> str:
        return write(self.spell(text))

    def calls(self, more: str) -> list[str]:
        """Rules of a call and of each tool's arguments with what ends them."""
        layout, lines = self._layout, []
        numbers = range(len(self._names))
        for number, name in enumerate(self._names):
            begin = self.lark(f"{layout.before}{name}{layout.after}")
            lines.append(f"call_{number}: {begin} args_{number}")
            lines.append(f"args_{number}: @part_{number} {self.lark(layout.end)}")
        lines.append(f"call: {' | '.join(f'call_{number}' for number in numbers)}")
        if more:
            lines.append(f"more: {self.lark(layout.between)} call")
        return lines

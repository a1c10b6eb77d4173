"""The grammar of arguments that are written as text between tags."""

import re
from typing import final

from mell_jax.grammar import Grammar, GrammarError
from mell_jax.grammar.grammar import MAX_GRAMMAR_BYTES
from mell_jax.grammar.lark import Word, free_text_until, regex, write
from mell_jax.text.answers.layout import Spell
from mell_jax.text.answers.text_values import Argument, arguments_of
from mell_jax.text.answers.tools import Tool


@final
class Parts:
    """The grammars of several values; each may bring all that it refers to."""

    def __init__(self) -> None:
        self._parts = list[tuple[str, str]]()
        self._size = 0

    @property
    def all(self) -> tuple[tuple[str, str], ...]:
        """Returns names and texts."""
        return tuple(self._parts)

    def add(self, name: str, argument: Argument) -> None:
        """Adds the JSON values of an argument.

        Raises:
            GrammarError: it cannot be one, or all are too large together.
        """
        parts = Grammar.from_json_schema(argument.schema).as_parts(name)
        self._parts += parts
        self._size += sum(len(text) for _, text in parts)
        if not (self._size <= MAX_GRAMMAR_BYTES):
            raise GrammarError(
                f"has {self._size} letters, what its arguments refer to once for each; "
                f"at most {MAX_GRAMMAR_BYTES} can be compiled"
            )


def text_arguments(
    tool: Tool,
    spell: Spell,
    *,
    begin: tuple[str, str],
    value_space: str,
    end: str,
    no_key: str,
) -> Grammar:
    """Returns the arguments that a tool names, in its order, each once at most.

    Values of other types than strings are JSON by their schema. Strings are free, or
    those of an `enum` or a `const`; no other keyword of theirs is kept to.

    Args:
        tool: whose arguments they are.
        spell: knows the special tokens.
        begin: what stands before a name, and after it.
        value_space: what stands before the end of a value that was not free.
        end: what ends a value.
        no_key: what a name must not have in it.

    Raises:
        GrammarError: a name cannot be written.
    """
    lines, parts, start = list[str](), Parts(), list[str]()
    for number, argument in enumerate(arguments_of(tool).values()):
        if no_key in argument.name:
            raise GrammarError(
                f"cannot be written for the tool {tool.name}: the name of its argument "
                f"{argument.name!r:.60} has {no_key} in it, which ends names in the "
                "model's format"
            )
        key = write(spell(argument.name.join(begin)))
        value = f"value_{number} {write(spell(value_space + end))}"
        choices = [write([choice]) for choice in argument.choices if end not in choice]
        if argument.is_text and not choices:
            value = "free_text"
        elif argument.is_text:
            lines.append(f"value_{number}: {' | '.join(choices)}")
        else:
            lines.append(f"value_{number}: @value_{number}")
            parts.add(f"value_{number}", argument)
        lines.append(f"argument_{number}: {key} {value}")
        start.append(f"argument_{number}" + ("" if argument.is_required else "?"))
    lines += _free_text(end, spell(end)[0])
    lines += [f"start: {' '.join(start) or _NOTHING}"]
    return Grammar(lark="\n".join(lines) + "\n", parts=parts.all)


_NOTHING = '""'


def _free_text(end: str, word: Word) -> list[str]:
    """Rules of a text up to its end, which stands nowhere in it in letters either."""
    if isinstance(word, str):
        attribute, body = free_text_until(word)
        return [f"free_text{attribute}: {body}"]
    other = regex(f"(?s:.*){re.escape(end)}(?s:.*)")
    return [f"free_text: TEXT {write([word])}", f"TEXT: /(?s:.*)/ & ~{other}"]

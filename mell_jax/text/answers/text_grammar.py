"""The grammar of arguments that are written as text between tags."""

import json
import re

from mell_jax.grammar import Grammar, GrammarError
from mell_jax.grammar.lark import Word, free_text_until, regex, write
from mell_jax.text.answers.layout import Spell
from mell_jax.text.answers.text_values import Argument, arguments_of
from mell_jax.text.answers.tools import Tool


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
    lines, parts, start = list[str](), list[tuple[str, str]](), list[str]()
    for number, argument in enumerate(arguments_of(tool).values()):
        if no_key in argument.name:
            raise GrammarError(
                f"cannot be written for the tool {tool.name}: the name of its argument "
                f"{argument.name!r:.60} has {no_key} in it, which ends names in the "
                "model's format"
            )
        key = write(spell(argument.name.join(begin)))
        value = f"value_{number} {write(spell(value_space + end))}"
        if argument.is_text and not _choices(argument):
            value = "free_text"
        elif argument.is_text:
            choices = (json.dumps(c, ensure_ascii=False) for c in _choices(argument))
            lines.append(f"value_{number}: {' | '.join(choices)}")
        else:
            lines.append(f"value_{number}: @value_{number}")
            content = Grammar.from_json_schema(argument.schema)
            parts += content.as_parts(f"value_{number}")
        lines.append(f"argument_{number}: {key} {value}")
        start.append(f"argument_{number}" + ("" if argument.is_required else "?"))
    lines += _free_text(end, spell(end)[0])
    lines += [f"start: {' '.join(start) or _NOTHING}"]
    return Grammar(lark="\n".join(lines) + "\n", parts=tuple(parts))


_NOTHING = '""'


def _free_text(end: str, word: Word) -> list[str]:
    """Rules of a text up to its end, which stands nowhere in it in letters either."""
    if isinstance(word, str):
        attribute, body = free_text_until(word)
        return [f"free_text{attribute}: {body}"]
    other = regex(f"(?s:.*){re.escape(end)}(?s:.*)")
    return [f"free_text: TEXT {write([word])}", f"TEXT: /(?s:.*)/ & ~{other}"]


def _choices(argument: Argument) -> list[str]:
    """The strings that an argument may be, if they are counted."""
    schema = argument.schema
    if isinstance(schema, bool):
        return []
    choices = [schema["const"]] if "const" in schema else schema.get("enum", [])
    return [choice for choice in choices if isinstance(choice, str)]

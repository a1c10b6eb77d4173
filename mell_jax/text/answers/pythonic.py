"""The format of Llama 3.2 and 4: the answer is a list of Python calls.

    [f(a=1, b='x'), g()]
    <|python_start|>[f(a=1)]<|python_end|>

Values are turned into JSON as they come.
"""

import json

from mell_jax.grammar import Grammar, GrammarError
from mell_jax.text.answers.calls import Calls
from mell_jax.text.answers.format import ToolFormat
from mell_jax.text.answers.layout import Layout, Spell
from mell_jax.text.answers.literals import PYTHON, read_value
from mell_jax.text.answers.reader import NotACallError, Reader, Steps, Waits
from mell_jax.text.answers.text_grammar import Parts
from mell_jax.text.answers.text_values import Argument, arguments_of, end_arguments
from mell_jax.text.answers.tools import NAME_LETTERS, Tool

_START, _END = "<|python_start|>", "<|python_end|>"


def _read(calls: Calls, marker: str) -> Steps[None]:
    reader = calls.reader
    yield from reader.space()
    yield from reader.expect("[")
    while True:
        yield from reader.space()
        yield from _read_call(calls)
        yield from reader.space()
        if (yield from reader.take("]")):
            break
        yield from reader.expect(",")
    reader.forget()  # it is whole, whether the end is spelled or not
    if marker:
        yield from reader.space()
        yield from reader.take(_END)


def _read_call(calls: Calls) -> Steps[None]:
    reader = calls.reader
    tool = calls.find((yield from reader.run(NAME_LETTERS)))
    yield from reader.expect("(")
    yield calls.open(tool.name)
    seen = set[str]()
    yield from reader.space()
    while not (yield from reader.take(")")):
        if seen:
            yield from reader.expect(",")
            yield from reader.space()
        yield from calls.stream(_read_argument(reader, calls.out, seen))
        yield from reader.space()
    yield from end_arguments(calls, seen=seen)


def _read_argument(reader: Reader, out: list[str], seen: set[str]) -> Waits[None]:
    key = yield from reader.run(NAME_LETTERS)
    if not key or key in seen:
        raise NotACallError
    yield from reader.space()
    yield from reader.expect("=")
    out.append(f"{', ' if seen else '{'}{json.dumps(key)}: ")
    seen.add(key)
    yield from read_value(reader, out, PYTHON)


def _arguments(tool: Tool, _: Spell) -> Grammar:
    """Returns the arguments that a tool names, in its order, parted by commas.

    Rules `first` are of a place before which there is none, `next` of others.
    """
    arguments = list(arguments_of(tool).values())
    lines, parts = ["start: first_0"], Parts()
    for number, argument in enumerate(arguments):
        _check_name(tool, argument)
        lines.append(f'pair_{number}: "{argument.name}=" {_value(argument, number)}')
        parts.add(f"value_{number}", argument)
        after = number + 1
        for place, comma in (("first", ""), ("next", '", " ')):
            skipped = "" if argument.is_required else f" | {place}_{after}"
            lines.append(
                f"{place}_{number}: {comma}pair_{number} next_{after}{skipped}"
            )
    lines += [f'{place}_{len(arguments)}: ""' for place in ("first", "next")]
    return Grammar(lark="\n".join(lines) + "\n", parts=parts.all)


def _value(argument: Argument, number: int) -> str:
    """A value is JSON, which Python reads alike, but for words that stand alone."""
    if argument.kinds == {"boolean"} and not _is_narrowed(argument):
        return '("True" | "False")'
    if argument.kinds == {"null"}:
        return '"None"'
    return f"@value_{number}"


def _is_narrowed(argument: Argument) -> bool:
    schema = argument.schema
    return isinstance(schema, bool) or not {"const", "enum"}.isdisjoint(schema)


def _check_name(tool: Tool, argument: Argument) -> None:
    if not (argument.name.isascii() and argument.name.isidentifier()):
        raise GrammarError(
            f"cannot be written for the tool {tool.name}: its argument "
            f"{argument.name!r:.60} is no name in Python, the model's format; choose "
            "letters, digits and underscores"
        )


PYTHONIC = ToolFormat(
    name="pythonic",
    read=_read,
    markers=(_START,),
    leads="[",
    layout=Layout(
        open="[",
        before="",
        after="(",
        arguments=_arguments,
        end=")",
        between=", ",
        close="]",
        is_lead=True,
        also=_START,
        markers=(_START, _END),
    ),
)

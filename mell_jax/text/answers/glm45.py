"""GLM's format from 4.5 on: keys and values between tags.

    <tool_call>f
    <arg_key>a</arg_key>
    <arg_value>1</arg_value>
    </tool_call>

GLM 4.7 writes it without line breaks. Values get their types by the tool's schema.
"""

from mell_jax.grammar import Grammar
from mell_jax.text.answers.calls import Calls
from mell_jax.text.answers.format import ToolFormat
from mell_jax.text.answers.layout import Layout, Spell
from mell_jax.text.answers.reader import Marks, NotACallError, Steps
from mell_jax.text.answers.text_grammar import text_arguments
from mell_jax.text.answers.text_values import (
    arguments_of,
    end_arguments,
    read_argument,
)
from mell_jax.text.answers.tools import NAME_LETTERS, Tool

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_KEY, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE, _VALUE_END = "<arg_value>", "</arg_value>"
_KEY_ENDS, _VALUE_ENDS = Marks([_KEY_END]), Marks([_VALUE_END])
_MARKERS = (_OPEN, _CLOSE, _KEY, _KEY_END, _VALUE, _VALUE_END)


def _read(calls: Calls, _: str) -> Steps[None]:
    reader = calls.reader
    yield from reader.space()
    tool = calls.find((yield from reader.run(NAME_LETTERS)))
    yield from reader.space()
    known, seen = arguments_of(tool), set[str]()
    if (yield from reader.peek()) != "<":  # it is text that begins with a tool's name
        raise NotACallError
    yield calls.open(tool.name)
    while not (yield from reader.take(_CLOSE)):
        yield from reader.expect(_KEY)
        key = yield from reader.until(_KEY_ENDS)
        yield from reader.space()
        yield from reader.expect(_VALUE)
        yield from read_argument(calls, key, known=known, seen=seen, end=_VALUE_ENDS)
        yield from reader.space()
    yield from end_arguments(calls, seen=seen)


def _arguments(tool: Tool, spell: Spell) -> Grammar:
    return text_arguments(
        tool,
        spell,
        begin=("\n" + _KEY, f"{_KEY_END}\n{_VALUE}"),
        value_space="",
        end=_VALUE_END,
        no_key=_KEY_END,
    )


GLM45 = ToolFormat(
    name="glm45",
    read=_read,
    markers=(_OPEN,),
    layout=Layout(
        before=_OPEN,
        after="",
        arguments=_arguments,
        end="\n" + _CLOSE,
        between="\n",
        trigger=_OPEN,
        markers=_MARKERS,
    ),
)

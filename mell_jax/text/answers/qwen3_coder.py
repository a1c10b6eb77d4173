"""Qwen3-Coder's format: arguments between tags, each on lines of its own.

    <tool_call>
    <function=f>
    <parameter=a>
    1
    </parameter>
    </function>
    </tool_call>

Values get their types by the tool's schema.
"""

from mell_jax.grammar import Grammar
from mell_jax.text.answers.calls import Calls
from mell_jax.text.answers.format import ToolFormat
from mell_jax.text.answers.layout import Layout, Spell
from mell_jax.text.answers.reader import Marks, Steps
from mell_jax.text.answers.text_grammar import text_arguments
from mell_jax.text.answers.text_values import (
    arguments_of,
    end_arguments,
    read_argument,
)
from mell_jax.text.answers.tools import NAME_LETTERS, Tool

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_VALUE_END = Marks(["\n" + _PARAMETER_END, _PARAMETER_END])
_KEY_END = Marks([">"])


def _read(calls: Calls, marker: str) -> Steps[None]:
    """Reads a call; the models leave out the outer tag now and then."""
    reader = calls.reader
    if marker == _OPEN:
        yield from reader.space()
        yield from reader.expect(_FUNCTION)
    tool = calls.find((yield from reader.run(NAME_LETTERS)))
    yield from reader.expect(">")
    yield calls.open(tool.name)
    known, seen = arguments_of(tool), set[str]()
    yield from reader.space()
    while not (yield from reader.take(_FUNCTION_END)):
        yield from reader.expect(_PARAMETER)
        key = yield from reader.until(_KEY_END)
        yield from reader.take("\n")
        yield from read_argument(calls, key, known=known, seen=seen, end=_VALUE_END)
        yield from reader.space()
    yield from end_arguments(calls, seen=seen)
    if marker == _OPEN:
        yield from reader.space()
        yield from reader.expect(_CLOSE)


def _arguments(tool: Tool, spell: Spell) -> Grammar:
    return text_arguments(
        tool,
        spell,
        begin=("\n" + _PARAMETER, ">\n"),
        value_space="\n",
        end=_PARAMETER_END,
        no_key=">",
    )


QWEN3_CODER = ToolFormat(
    name="qwen3_coder",
    read=_read,
    markers=(_OPEN, _FUNCTION),
    layout=Layout(
        before=f"{_OPEN}\n{_FUNCTION}",
        after=">",
        arguments=_arguments,
        end=f"\n{_FUNCTION_END}\n{_CLOSE}",
        between="\n",
        trigger=_OPEN,
        markers=(_OPEN, _CLOSE),
    ),
)

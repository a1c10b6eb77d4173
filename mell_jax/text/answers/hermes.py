"""Hermes' format, and that of Qwen 2.5 and 3: JSON between two tags.

    <tool_call>
    {"name": "f", "arguments": {"a": 1}}
    </tool_call>

Several calls may stand between the tags.
"""

from mell_jax.text.answers.calls import Calls
from mell_jax.text.answers.format import ToolFormat
from mell_jax.text.answers.json_call import json_call
from mell_jax.text.answers.layout import Layout, json_arguments
from mell_jax.text.answers.reader import Steps

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def _read(calls: Calls, _: str) -> Steps[None]:
    reader = calls.reader
    yield from reader.space()
    yield from json_call(calls)
    yield from reader.space()
    while not (yield from reader.take(_CLOSE)):  # several between two tags
        yield from json_call(calls)
        yield from reader.space()


HERMES = ToolFormat(
    name="hermes",
    read=_read,
    markers=(_OPEN,),
    layout=Layout(
        before=_OPEN + '\n{"name": "',
        after='", "arguments": ',
        arguments=json_arguments,
        end="}\n" + _CLOSE,
        between="\n",
        trigger=_OPEN,
        markers=(_OPEN, _CLOSE),
    ),
)

"""Mistral's formats: a list of calls, and from tokenizer 11 on a call by itself.

    [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]
    [TOOL_CALLS]f[ARGS]{"a": 1}         also f[CALL_ID]abc123def[ARGS]{"a": 1}

Both are read alike, and written each in its own way.
"""

from mell_jax.text.answers.calls import Calls
from mell_jax.text.answers.format import ToolFormat
from mell_jax.text.answers.json_call import begin_call, json_call
from mell_jax.text.answers.layout import Layout, json_arguments
from mell_jax.text.answers.reader import Reader, Steps, Waits
from mell_jax.text.answers.tools import NAME_LETTERS

_OPEN, _ARGUMENTS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_MARKERS = (_OPEN, _ARGUMENTS, _ID)


def _read(calls: Calls, _: str) -> Steps[None]:
    """Reads either format: they differ in the first character."""
    reader = calls.reader
    yield from reader.space()
    if (yield from reader.take("[")):
        yield from _read_list(calls)
        return
    name = yield from _read_name(reader)
    yield from begin_call(calls, name)
    calls.close()


def _read_name(reader: Reader) -> Waits[str]:
    name = yield from reader.run(NAME_LETTERS)
    if (yield from reader.take(_ID)):
        yield from reader.run(NAME_LETTERS)
    yield from reader.take(_ARGUMENTS)  # is not there where it is not spelled
    yield from reader.space()
    return name


def _read_list(calls: Calls) -> Steps[None]:
    reader = calls.reader
    while True:
        yield from reader.space()
        yield from json_call(calls)
        yield from reader.space()
        if (yield from reader.take("]")):
            return
        yield from reader.expect(",")


MISTRAL = ToolFormat(
    name="mistral",
    read=_read,
    markers=(_OPEN,),
    layout=Layout(
        open=_OPEN + "[",
        before='{"name": "',
        after='", "arguments": ',
        arguments=json_arguments,
        end="}",
        between=", ",
        close="]",
        trigger=_OPEN,
        markers=_MARKERS,
    ),
)
MISTRAL_V11 = ToolFormat(
    name="mistral_v11",
    read=_read,
    markers=(_OPEN,),
    layout=Layout(
        before=_OPEN,
        after=_ARGUMENTS,
        arguments=json_arguments,
        end="",
        trigger=_OPEN,
        markers=_MARKERS,
    ),
)

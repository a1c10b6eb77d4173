"""DeepSeek's formats, of V3 and R1, and of V3.1; their bars have full width.

    <|tool▁calls▁begin|><|tool▁call▁begin|>function<|tool▁sep|>f
    ```json
    {"a": 1}
    ```<|tool▁call▁end|><|tool▁calls▁end|>                              (V3)
    <|tool▁calls▁begin|><|tool▁call▁begin|>f<|tool▁sep|>{"a": 1}...     (V3.1)

Both are read alike, and written each in its own way.
"""

from mell_jax.text.answers.calls import Calls
from mell_jax.text.answers.format import ToolFormat
from mell_jax.text.answers.json_call import begin_call
from mell_jax.text.answers.layout import Layout, json_arguments
from mell_jax.text.answers.reader import Steps
from mell_jax.text.answers.tools import NAME_LETTERS

_OPEN = "<\uff5ctool\u2581calls\u2581begin\uff5c>"
_CLOSE = "<\uff5ctool\u2581calls\u2581end\uff5c>"
_CALL = "<\uff5ctool\u2581call\u2581begin\uff5c>"
_SEP = "<\uff5ctool\u2581sep\uff5c>"
_END = "<\uff5ctool\u2581call\u2581end\uff5c>"
_MARKERS = (_OPEN, _CLOSE, _CALL, _SEP, _END)


def _read(calls: Calls, _: str) -> Steps[None]:
    """Reads either format: one has a fence around its arguments."""
    reader = calls.reader
    yield from reader.space()
    yield from reader.expect(_CALL)
    while True:
        yield from _read_call(calls)
        yield from reader.space()
        if (yield from reader.take(_CLOSE)):
            return
        yield from reader.expect(_CALL)


def _read_call(calls: Calls) -> Steps[None]:
    reader = calls.reader
    name = yield from reader.run(NAME_LETTERS)
    yield from reader.expect(_SEP)
    yield from reader.space()
    is_fenced = (yield from reader.peek()) != "{"
    if is_fenced:
        name = yield from reader.run(NAME_LETTERS)
        yield from reader.space()
        yield from reader.expect("```json")
        yield from reader.space()
    yield from begin_call(calls, name)
    if is_fenced:
        yield from reader.space()
        yield from reader.expect("```")
    yield from reader.space()
    yield from reader.expect(_END)
    calls.close()


DEEPSEEK_V3 = ToolFormat(
    name="deepseek_v3",
    read=_read,
    markers=(_OPEN,),
    layout=Layout(
        open=_OPEN,
        before=f"{_CALL}function{_SEP}",
        after="\n```json\n",
        arguments=json_arguments,
        end=f"\n```{_END}",
        between="\n",
        close=_CLOSE,
        trigger=_OPEN,
        markers=_MARKERS,
    ),
)
DEEPSEEK_V31 = ToolFormat(
    name="deepseek_v31",
    read=_read,
    markers=(_OPEN,),
    layout=Layout(
        open=_OPEN,
        before=_CALL,
        after=_SEP,
        arguments=json_arguments,
        end=_END,
        close=_CLOSE,
        trigger=_OPEN,
        markers=_MARKERS,
    ),
)

"""Llama 3.1's format: the answer is JSON, or JSON follows a tag.

    {"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}
    <|python_tag|>{"name": "f", "parameters": {"a": 1}}

Llama 4 puts the same between `<|python_start|>` and `<|python_end|>`.
"""

from mell_jax.text.answers.calls import Calls
from mell_jax.text.answers.format import ToolFormat
from mell_jax.text.answers.json_call import json_call
from mell_jax.text.answers.layout import Layout, json_arguments
from mell_jax.text.answers.reader import Steps

_TAG = "<|python_tag|>"
_START, _END = "<|python_start|>", "<|python_end|>"


def _read(calls: Calls, marker: str) -> Steps[None]:
    reader = calls.reader
    yield from reader.space()
    yield from json_call(calls)
    yield from reader.space()
    while (yield from reader.take(";")):
        yield from reader.space()
        yield from json_call(calls)
        yield from reader.space()
    if marker == _START:
        yield from reader.take(_END)


LLAMA3_JSON = ToolFormat(
    name="llama3_json",
    read=_read,
    markers=(_TAG, _START),
    leads="{",
    layout=Layout(
        before='{"name": "',
        after='", "parameters": ',
        arguments=json_arguments,
        end="}",
        between="; ",
        trigger='{"name": "',
        is_lead=True,
        also=_TAG,
        markers=(_TAG, _START, _END),
    ),
)

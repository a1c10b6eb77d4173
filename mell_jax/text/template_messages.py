"""Messages of a client become messages that templates read, as in transformers.

    {"content": null, "reasoning": "r", "tool_calls": [... "{\\"a\\": 1}"]}
    {"reasoning_content": "r", ..., "tool_calls": [... {"a": 1}]}

Keys whose value is null are left out, reasoning has all of its names, arguments are
objects. Where a template wants something else (`TemplateHabits`), it gets that.
"""

import json
from collections.abc import Mapping, Sequence

import msgspec

from mell_jax.text.conversation import Message, text_parts
from mell_jax.text.json_values import JsonValue
from mell_jax.text.template_habits import CallStyle, TemplateHabits

_REASONING = ("reasoning_content", "thinking", "reasoning")  # the first one counts


def for_template(message: Message, *, habits: TemplateHabits) -> dict[str, JsonValue]:
    """Returns a message as its template wants it."""
    shaped: dict[str, JsonValue] = {
        key: value for key, value in message.items() if value is not None
    }
    reasoning = [shaped[name] for name in _REASONING if name in shaped]
    if reasoning:
        shaped = {"thinking": reasoning[0], **shaped, "reasoning_content": reasoning[0]}
    calls = shaped.pop("tool_calls", None)
    if isinstance(calls, Sequence) and calls:
        style = habits.call_style()
        if not shaped.get("content"):
            shaped |= style.empty
        shaped["tool_calls"] = [_call(each, style=style) for each in calls]
    else:
        shaped.setdefault("content", "")
    content = shaped.get("content")
    if not isinstance(content, str | None) and not habits.reads_parts(
        str(shaped.get("role"))
    ):
        shaped["content"] = "\n".join(str(each["text"]) for each in text_parts(content))
    return shaped


def _call(call: JsonValue, *, style: CallStyle) -> JsonValue:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments", "")
    if style.has_text_arguments:
        arguments = arguments if isinstance(arguments, str) else _dump(arguments)
    else:
        arguments = _parse(arguments)
    return {**call, "function": {**function, "arguments": arguments}}


def _parse(arguments: JsonValue) -> JsonValue:
    """An object where there is one; what a model wrote wrong stays as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = msgspec.json.decode(arguments.strip() or "{}")
    except (msgspec.DecodeError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _dump(arguments: JsonValue) -> str:
    return json.dumps(arguments, ensure_ascii=False)

"""The parts of an answer as clients of each protocol read them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Data = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a model thought and said, and what it calls: names and JSON text."""

    thought: str = ""
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()


def of_message(message: Data) -> Parts:
    """Of a whole message of chat completions."""
    assert message["role"] == "assistant"
    assert message.get("reasoning") == message.get("reasoning_content")
    calls = message.get("tool_calls", [])
    assert len({call["id"] for call in calls}) == len(calls)
    assert all(call["type"] == "function" for call in calls)
    if message["content"] is None:
        assert calls, "no content and no calls"
    else:
        assert message["content"] or not calls, "the content is empty and not null"
    functions = [call["function"] for call in calls]
    return Parts(
        thought=message.get("reasoning_content", ""),
        text=message["content"] or "",
        calls=tuple((each["name"], each["arguments"]) for each in functions),
    )


def joined(choices: Sequence[Data]) -> tuple[Data, str]:
    """Builds the message of one choice from its deltas; returns why it ended, too."""
    message: Data = {"role": None, "content": None}
    calls: list[Data] = []
    *before, last = choices
    assert all(choice["finish_reason"] is None for choice in before)
    for number, choice in enumerate(choices):
        delta = dict(choice["delta"])
        if number == 0:
            message["role"] = delta.pop("role")
        assert delta.keys() in (
            {"content"},
            {"reasoning_content", "reasoning"},
            {"tool_calls"},
            set(),
        )
        for key in ("content", "reasoning_content", "reasoning"):
            if key in delta:
                message[key] = (message.get(key) or "") + delta[key]
        for call in delta.get("tool_calls", ()):
            grow(calls, call)
    if calls:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    else:
        message["content"] = message["content"] or ""
    return message, last["finish_reason"]


def grow(calls: list[Data], delta: Data) -> None:
    """Adds a piece of a call: its id, type and name first, then its arguments."""
    index, function = delta["index"], delta["function"]
    if index == len(calls):
        assert delta.keys() == {"index", "id", "type", "function"}
        assert function.keys() == {"name", "arguments"}
        assert function["arguments"] == ""
        calls.append({**delta, "function": dict(function)})
        del calls[-1]["index"]
        return
    assert index == len(calls) - 1, "a call goes on that is over"
    assert delta.keys() == {"index", "function"}
    assert function.keys() == {"arguments"} and function["arguments"]
    calls[index]["function"]["arguments"] += function["arguments"]


def of_stream(chunks: Sequence[Data], *, index: int = 0) -> tuple[Parts, str]:
    """The parts of one choice of a stream, and why it ended."""
    choices = [
        choice
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    ]
    message, reason = joined(choices)
    return of_message(message), reason


def of_response(response: Data) -> Parts:
    """Of a response object, of which each kind's items are joined."""
    items = response["output"]
    thoughts = [item for item in items if item["type"] == "reasoning"]
    said = [item for item in items if item["type"] == "message"]
    calls = [item for item in items if item["type"] == "function_call"]
    return Parts(
        thought="".join(part["text"] for item in thoughts for part in item["content"]),
        text="".join(part["text"] for item in said for part in item["content"]),
        calls=tuple((call["name"], call["arguments"]) for call in calls),
    )


def of_blocks(message: Data) -> Parts:
    """Of a message of the Messages API, whose calls have values."""
    blocks = message["content"]
    return Parts(
        thought="".join(b["thinking"] for b in blocks if b["type"] == "thinking"),
        text="".join(b["text"] for b in blocks if b["type"] == "text"),
        calls=tuple(
            (b["name"], json.dumps(b["input"], ensure_ascii=False))
            for b in blocks
            if b["type"] == "tool_use"
        ),
    )

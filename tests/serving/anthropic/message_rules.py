"""The rules that Anthropic's clients rely on when they read a streamed message.

`check_stream` builds the message up from its events, as a client does, and fails where
an event does not fit what came before.
"""

import json
from collections.abc import Sequence
from typing import Any

Data = dict[str, Any]
_GROWS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
}


class Reader:
    """Builds a message up from its events, one block at a time."""

    def __init__(self) -> None:
        self.message: Data = {}
        self._open: Data | None = None
        self._json = ""

    @property
    def is_open(self) -> bool:
        return self._open is not None

    def read(self, data: Data) -> None:
        match data["type"]:
            case "message_start":
                assert not self.message
                self.message = dict(data["message"])
                assert self.message["content"] == []
                assert self.message["stop_reason"] is None
            case "ping":
                assert self.message
            case "content_block_start":
                assert self.message and self._open is None
                assert data["index"] == len(self.message["content"])
                self._open, self._json = dict(data["content_block"]), ""
            case "content_block_delta":
                self._grow(data)
            case "content_block_stop":
                assert self._open is not None
                assert data["index"] == len(self.message["content"])
                if self._open["type"] == "tool_use":
                    self._open["input"] = parsed(self._json)
                self.message["content"].append(self._open)
                self._open = None
            case "message_delta":
                assert self._open is None
                assert data["delta"].keys() == {"stop_reason", "stop_sequence"}
                self.message |= {**data["delta"], "usage": data["usage"]}
            case "message_stop":
                assert self.message["stop_reason"] is not None
            case other:
                raise AssertionError(f"{other} is no event that is sent here")

    def _grow(self, data: Data) -> None:
        block, delta = self._open, data["delta"]
        assert block is not None
        assert data["index"] == len(self.message["content"])
        if delta["type"] == "input_json_delta":
            assert block["type"] == "tool_use" and delta["partial_json"]
            self._json += delta["partial_json"]
            return
        kind, key = _GROWS[delta["type"]]
        assert block["type"] == kind and delta[key]
        block[key] += delta[key]


def parsed(text: str) -> Data:
    """The input of a tool as a client reads it."""
    try:
        value = json.loads(text.strip(" \t\r\n") or "{}")
    except ValueError:
        return {"INVALID_JSON": text}
    return value if isinstance(value, dict) else {"INVALID_JSON": text}


def check_stream(events: Sequence[tuple[str, Data]]) -> Data:
    """Checks a whole stream, (name, data) each, and returns its message."""
    reader = Reader()
    for name, data in events:
        assert name == data["type"]
        reader.read(data)
    names = [name for name, _ in events]
    assert (names[0], names[-2:]) == (
        "message_start",
        ["message_delta", "message_stop"],
    )
    for once in ("message_start", "message_delta", "message_stop"):
        assert names.count(once) == 1
    assert not reader.is_open
    for block in reader.message["content"]:
        assert block["type"] != "thinking" or block["signature"]
    return reader.message

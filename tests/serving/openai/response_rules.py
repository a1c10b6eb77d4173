"""The rules that OpenAI's clients rely on when they read a streamed response.

`check_stream` reads events as a client does, building the response up from them, and
fails where an event does not fit what came before.
"""

from collections.abc import Sequence
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
Data = dict[str, Any]
TERMINAL = {"response.completed", "response.incomplete", "response.failed"}


class Reader:
    """Builds a response up from its events, one item at a time."""

    def __init__(self) -> None:
        self.items: list[Data] = []
        self.id = ""
        self._open: Data | None = None  # as it was added
        self._part: Data | None = None
        self._text = ""
        self._text_done = False
        self._part_done = False

    def read(self, name: str, data: Data) -> None:
        match name.removeprefix("response."):
            case "created" | "in_progress":
                assert self._open is None and not self.items
                assert data["response"]["output"] == []
                assert data["response"]["status"] == "in_progress"
                assert data["response"]["usage"] is None
            case "output_item.added":
                self._add(data)
            case "content_part.added":
                self._inside(data)
                assert self._part is None and data["part"]["text"] == ""
                assert self._item["type"] != "function_call"
                self._part = data["part"]
            case "output_text.delta" | "reasoning_text.delta":
                self._inside(data)
                self._check_kind(name)
                assert self._part is not None and not self._text_done
                assert data["delta"], "an empty delta"
                self._text += data["delta"]
            case "output_text.done" | "reasoning_text.done":
                self._inside(data)
                self._check_kind(name)
                assert not self._text_done
                assert data["text"] == self._text
                self._text_done = True
            case "content_part.done":
                self._inside(data)
                assert self._text_done and not self._part_done
                assert self._part is not None
                assert data["part"] == {**self._part, "text": self._text}
                self._part, self._part_done = data["part"], True
            case "function_call_arguments.delta":
                self._of_call(data)
                assert data["delta"], "an empty delta"
                self._text += data["delta"]
            case "function_call_arguments.done":
                self._of_call(data)
                assert data["arguments"] == self._text
                assert data["name"] == self._item["name"]
                self._text_done = True
            case "output_item.done":
                self._end(data)
            case other:
                raise AssertionError(f"{other} is no event that is sent here")

    @property
    def _item(self) -> Data:
        assert self._open is not None, "no item is open"
        return self._open

    @property
    def is_open(self) -> bool:
        return self._open is not None

    def _add(self, data: Data) -> None:
        assert self._open is None, "two items are open"
        item = data["item"]
        assert data["output_index"] == len(self.items)
        assert item["status"] == "in_progress"
        assert item["id"] not in {each["id"] for each in self.items}
        if item["type"] == "function_call":
            assert item["arguments"] == ""
            known = {each.get("call_id") for each in self.items}
            assert item["call_id"] not in known
        else:
            assert item["content"] == []
        self._open, self._part, self._text = item, None, ""
        self._text_done = self._part_done = False

    def _end(self, data: Data) -> None:
        item = data["item"]
        assert data["output_index"] == len(self.items)
        assert self._text_done
        grown: Data = {"arguments": self._text}
        if item["type"] != "function_call":
            assert self._part_done
            grown = {"content": [self._part]}
        assert item["status"] in ("completed", "incomplete")
        grown["status"] = item["status"]
        if item["type"] == "reasoning":
            grown["encrypted_content"] = item["encrypted_content"]
        assert item == {**self._item, **grown}
        self.items.append(item)
        self._open = None

    def _inside(self, data: Data) -> None:
        assert data["item_id"] == self._item["id"]
        assert data["output_index"] == len(self.items)
        assert data["content_index"] == 0

    def _of_call(self, data: Data) -> None:
        assert self._item["type"] == "function_call"
        assert not self._text_done
        assert data["item_id"] == self._item["id"]
        assert data["output_index"] == len(self.items)

    def _check_kind(self, name: str) -> None:
        is_thought = name.startswith("response.reasoning")
        assert self._item["type"] == ("reasoning" if is_thought else "message")


def check_stream(events: Sequence[tuple[str, Data]]) -> Data:
    """Checks a whole stream, (name, data) each, and returns its last response."""
    reader = Reader()
    for number, (name, data) in enumerate(events):
        parsed = EVENT.validate_python(data)
        assert parsed.type == name == data["type"]
        assert data["sequence_number"] == number
        is_last = number == len(events) - 1
        assert (name in TERMINAL) == is_last, name
        if name == "error":
            assert number == len(events) - 2
        elif not is_last:
            reader.read(name, data)
    name, data = events[-1]
    response: Data = data["response"]
    check_response(response)
    assert name == f"response.{response['status']}"
    assert response["output"] == reader.items
    begun = [data for name, data in events if name == "response.created"]
    if name != "response.failed":
        assert [name for name, _ in events[:2]] == [
            "response.created",
            "response.in_progress",
        ]
        assert not reader.is_open
    for first in begun:
        changed = {"status", "output", "usage", "error", "incomplete_details"}
        for key in first["response"].keys() - changed:
            assert first["response"][key] == response[key], key
    return response


def check_response(response: Data) -> None:
    """Checks a response that has ended."""
    parsed = Response.model_validate(response)
    assert parsed.object == "response"
    assert parsed.status in ("completed", "incomplete", "failed")
    assert (parsed.error is not None) == (parsed.status == "failed")
    assert (parsed.incomplete_details is not None) == (parsed.status == "incomplete")
    assert (parsed.usage is not None) == (parsed.status != "failed")
    if parsed.usage is not None:
        used = parsed.usage
        assert used.total_tokens == used.input_tokens + used.output_tokens
    assert all(type(item).__name__ != "dict" for item in parsed.output)

"""Steps of answers become events that add up to one message."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings

from mell_jax.serving.anthropic.answers import MessageHeading, MessageTeller
from mell_jax.serving.anthropic.blocks import input_of
from mell_jax.serving.chat.events import (
    Begun,
    CallArgued,
    CallBegan,
    CallDropped,
    Ended,
    Recast,
    Said,
    Step,
    Thought,
    Usage,
    settled,
)
from mell_jax.serving.chat.teller import told_by
from mell_jax.serving.http.errors import Failure
from tests.serving.anthropic.message_rules import check_stream, parsed
from tests.serving.chat.steps import answers

USAGE = Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=5)
BEGUN = Begun(usage=Usage(prompt_tokens=9, cached_tokens=4))
ENDED = Ended(is_cut=False, usage=USAGE)


def teller() -> MessageTeller:
    return MessageTeller(MessageHeading(key="0a", model="letters"))


def told(
    steps: Iterable[Step], *, by: MessageTeller | None = None
) -> list[tuple[str, dict[str, Any]]]:
    by = by or teller()
    return [
        (each.name, dict(each.data)) for step in steps for each in told_by(by, step)
    ]


def whole_of(steps: Iterable[Step]) -> dict[str, Any]:
    by = teller()
    told(settled(steps), by=by)
    return dict(by.whole())


def expected(steps: Sequence[Step]) -> list[tuple[str, Any]]:
    """(kind, text or input) of steps that take nothing back."""
    found: list[tuple[str, Any]] = []
    for step in steps:
        match step:
            case CallBegan(name=name):
                found.append((name, ""))
            case CallArgued(piece=piece):
                name, text = found[-1]
                found[-1] = (name, text + piece)
            case Said(text=text) | Thought(text=text) if text:
                kind = "text" if isinstance(step, Said) else "thinking"
                if found and found[-1][0] == kind:
                    found[-1] = (kind, found[-1][1] + text)
                else:
                    found.append((kind, text))
    kinds = ("text", "thinking")
    return [(kind, text if kind in kinds else parsed(text)) for kind, text in found]


def parts(message: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (block["name"], block["input"])
        if block["type"] == "tool_use"
        else (block["type"], block[block["type"]])
        for block in message["content"]
    ]


@settings(max_examples=200, deadline=None)
@given(steps=answers())
def test_a_stream_keeps_the_rules_and_adds_up_to_the_whole(steps: list[Step]) -> None:
    message = check_stream(told(steps))
    assert message == whole_of(steps)
    assert parts(message) == expected(steps)


@settings(max_examples=200, deadline=None)
@given(steps=answers(takes_back=True))
def test_what_is_taken_back_stays_in_a_stream_and_is_not_there_in_a_whole(
    steps: list[Step],
) -> None:
    stream, whole = check_stream(told(steps)), whole_of(steps)
    assert stream["stop_reason"] == whole["stop_reason"]
    dropped = {step.index for step in steps if isinstance(step, CallDropped)}
    begun = [s for s in steps if isinstance(s, CallBegan) and s.index not in dropped]
    used = [each for each in whole["content"] if each["type"] == "tool_use"]
    assert [use["name"] for use in used] == [each.name for each in begun]
    ended = steps[-1]
    assert isinstance(ended, Ended)
    if not ended.is_cut:
        assert (whole["stop_reason"] == "tool_use") == bool(begun)


def test_a_thought_an_answer_and_a_use_event_by_event() -> None:
    steps = [
        BEGUN,
        Thought("so 2"),
        Said("I "),
        Said("add."),
        CallBegan(0, "add"),
        CallArgued(0, '{"a":1}'),
        ENDED,
    ]
    usage = {
        "input_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 0,
    }
    head = {"id": "msg_0a", "type": "message", "role": "assistant", "model": "letters"}
    nothing = {"stop_reason": None, "stop_sequence": None}
    use = {"type": "tool_use", "id": "toolu_0a0000", "name": "add", "input": {}}
    text = {"type": "text", "text": "", "citations": None}
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    stop = "content_block_stop"
    assert [data for _, data in told(steps)] == [
        {
            "type": "message_start",
            "message": {**head, "content": [], **nothing, "usage": usage},
        },
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": thinking},
        _delta(0, type="thinking_delta", thinking="so 2"),
        _delta(0, type="signature_delta", signature="mell_jax"),
        {"type": stop, "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": text},
        _delta(1, type="text_delta", text="I "),
        _delta(1, type="text_delta", text="add."),
        {"type": stop, "index": 1},
        {"type": "content_block_start", "index": 2, "content_block": use},
        _delta(2, type="input_json_delta", partial_json='{"a":1}'),
        {"type": stop, "index": 2},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {**usage, "output_tokens": 5},
        },
        {"type": "message_stop"},
    ]
    assert whole_of(steps)["content"] == [
        {"type": "thinking", "thinking": "so 2", "signature": "mell_jax"},
        {"type": "text", "text": "I add.", "citations": None},
        {**use, "input": {"a": 1}},
    ]


def _delta(index: int, **delta: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


@pytest.mark.parametrize(
    ("events", "is_cut", "stop_string", "reason"),
    [
        ([], False, None, "end_turn"),
        ([Said("a")], True, None, "max_tokens"),
        ([Said("a")], False, "STOP", "stop_sequence"),
        ([CallBegan(0, "f")], False, None, "tool_use"),
        ([CallBegan(0, "f")], True, None, "max_tokens"),
        ([CallBegan(0, "f"), CallDropped(0, "x")], False, None, "end_turn"),
        ([Said("a"), Recast()], False, None, "end_turn"),
    ],
)
def test_a_message_says_why_it_stopped(
    events: list[Any], is_cut: bool, stop_string: str | None, reason: str
) -> None:
    ended = Ended(is_cut=is_cut, usage=USAGE, stop_string=stop_string)
    message = whole_of([BEGUN, *events, ended])
    assert message["stop_reason"] == reason
    said = stop_string if reason == "stop_sequence" else None
    assert message["stop_sequence"] == said


@pytest.mark.parametrize("text", ['{"a": ', "[1]", "NaN", '"a"', "[" * 5000])
def test_input_that_was_cut_off_is_told_as_it_is(text: str) -> None:
    assert input_of(text) == {"INVALID_JSON": text}


def test_no_input_is_an_empty_one() -> None:
    assert input_of("") == input_of(" ") == input_of("{}") == {}


def test_a_failure_is_an_event() -> None:
    failure = Failure(
        status=503, message="it broke", field="", code=None, retry_after_s=None
    )
    (error,) = teller().fail(failure)
    assert error.name == "error"
    assert error.data == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "it broke"},
    }


def test_the_rules_can_be_broken() -> None:
    """The control: each event is missed, and each change of its numbers."""
    events = told([BEGUN, Said("a"), CallBegan(0, "f"), CallArgued(0, "{}"), ENDED])
    whole = check_stream(events)
    for at, (name, data) in enumerate(events):
        if name == "ping":
            continue
        with pytest.raises((AssertionError, KeyError)):
            changed = check_stream(events[:at] + events[at + 1 :])
            assert changed == whole
        if "index" in data:
            wrong = [*events]
            wrong[at] = (name, {**data, "index": 7})
            with pytest.raises(AssertionError):
                check_stream(wrong)

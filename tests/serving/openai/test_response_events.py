"""Steps of answers become events that add up to one response."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings

from mell_jax.engine.params import SamplingParams
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
from mell_jax.serving.openai.responses.answers import ResponseHeading, ResponseTeller
from mell_jax.serving.openai.responses.asking import asked_by
from mell_jax.serving.openai.responses.conversation import seal
from mell_jax.serving.openai.responses.wire import ResponsesRequest
from tests.serving.chat.steps import answers
from tests.serving.openai.response_rules import check_response, check_stream

USAGE = Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=5, thought_tokens=2)
BEGUN = Begun(usage=Usage(prompt_tokens=9, cached_tokens=4))
ENDED = Ended(is_cut=False, usage=USAGE)
FAILURE = Failure(
    status=503, message="it broke", field="", code=None, retry_after_s=None
)


def teller(*, seals_thoughts: bool = False) -> ResponseTeller:
    asked = asked_by(ResponsesRequest(input="a"), defaults=SamplingParams())
    return ResponseTeller(
        ResponseHeading(
            key="0a",
            created_s=7,
            model="letters",
            repeated=asked.repeated,
            seals_thoughts=seals_thoughts,
        )
    )


def told(
    steps: Iterable[Step], *, by: ResponseTeller | None = None
) -> list[tuple[str, dict[str, Any]]]:
    by = by or teller()
    return [
        (each.name, dict(each.data)) for step in steps for each in told_by(by, step)
    ]


def whole_of(steps: Iterable[Step]) -> dict[str, Any]:
    by = teller()
    told(settled(steps), by=by)
    return dict(by.whole())


def parts(response: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, text or arguments) of each item."""
    found = []
    for item in response["output"]:
        if item["type"] == "function_call":
            found.append((item["name"], item["arguments"]))
        else:
            found.append((item["type"], item["content"][0]["text"]))
    return found


def expected(steps: Sequence[Step]) -> list[tuple[str, str]]:
    """The same for steps that take nothing back: what follows of one kind is joined."""
    found: list[tuple[str, str]] = []
    for step in steps:
        match step:
            case CallBegan(name=name):
                found.append((name, ""))
            case CallArgued(piece=piece):
                name, text = found[-1]
                found[-1] = (name, text + piece)
            case Said(text=text) | Thought(text=text) if text:
                kind = "message" if isinstance(step, Said) else "reasoning"
                if found and found[-1][0] == kind:
                    found[-1] = (kind, found[-1][1] + text)
                else:
                    found.append((kind, text))
    return found or [("message", "")]


@settings(max_examples=200, deadline=None)
@given(steps=answers())
def test_a_stream_keeps_the_rules_and_ends_with_the_whole(steps: list[Step]) -> None:
    last = check_stream(told(steps))
    assert last == whole_of(steps)
    assert parts(last) == expected(steps)
    ended = steps[-1]
    assert isinstance(ended, Ended)
    assert last["status"] == ("incomplete" if ended.is_cut else "completed")
    statuses = [item["status"] for item in last["output"]]
    assert statuses == ["completed"] * (len(statuses) - 1) + [last["status"]]


@settings(max_examples=200, deadline=None)
@given(steps=answers(takes_back=True))
def test_what_is_taken_back_ends_in_a_stream_and_is_not_there_in_a_whole(
    steps: list[Step],
) -> None:
    check_stream(told(steps))
    whole = whole_of(steps)
    check_response(whole)
    dropped = {step.index for step in steps if isinstance(step, CallDropped)}
    begun = [s for s in steps if isinstance(s, CallBegan) and s.index not in dropped]
    calls = [each for each in whole["output"] if each["type"] == "function_call"]
    assert [call["name"] for call in calls] == [each.name for each in begun]
    last = max((i for i, s in enumerate(steps) if isinstance(s, Recast)), default=-1)
    said = [
        step.text for step in steps[last + 1 :] if isinstance(step, Said | CallDropped)
    ]
    messages = [text for kind, text in parts(whole) if kind == "message"]
    assert "".join(messages) == "".join(said)


@settings(max_examples=100, deadline=None)
@given(steps=answers(takes_back=True))
def test_a_stream_may_fail_anywhere(steps: list[Step]) -> None:
    for end in range(len(steps)):
        by = teller()
        events = told(steps[:end], by=by)
        events += [(each.name, dict(each.data)) for each in by.fail(FAILURE)]
        last = check_stream(events)
        assert last["error"] == {"code": "server_error", "message": "it broke"}


def test_a_thought_an_answer_and_a_call_event_by_event() -> None:
    steps = [
        BEGUN,
        Thought("so "),
        Thought("2"),
        Said("I add."),
        CallBegan(0, "add"),
        CallArgued(0, '{"a":'),
        CallArgued(0, "1}"),
        ENDED,
    ]
    events = told(steps)
    names = [name.removeprefix("response.") for name, _ in events]
    assert names == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert events[4][1] == {
        "type": "response.reasoning_text.delta",
        "sequence_number": 4,
        "item_id": "rs_0a0000",
        "output_index": 0,
        "content_index": 0,
        "delta": "so ",
    }
    response = events[-1][1]["response"]
    assert response["id"] == "resp_0a"
    assert response["output"] == [
        {
            "id": "rs_0a0000",
            "type": "reasoning",
            "status": "completed",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "so 2"}],
            "encrypted_content": None,
        },
        {
            "id": "msg_0a0001",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {
                    "type": "output_text",
                    "text": "I add.",
                    "annotations": [],
                    "logprobs": [],
                }
            ],
        },
        {
            "id": "fc_0a0002",
            "type": "function_call",
            "status": "completed",
            "arguments": '{"a":1}',
            "call_id": "call_0a0000",
            "name": "add",
        },
    ]
    assert response["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }


def test_a_dropped_call_is_incomplete_in_a_stream_and_its_text_is_said() -> None:
    steps = [BEGUN, CallBegan(0, "add"), CallDropped(0, "<call>add"), Said("!"), ENDED]
    last = check_stream(told(steps))
    assert [item["status"] for item in last["output"]] == ["incomplete", "completed"]
    assert parts(last) == [("add", ""), ("message", "<call>add!")]
    assert parts(whole_of(steps)) == [("message", "<call>add!")]


def test_what_is_recast_is_a_thought_of_a_whole() -> None:
    steps = [BEGUN, Said("hm"), Recast(), Said("2"), ENDED]
    assert parts(whole_of(steps)) == [("reasoning", "hm"), ("message", "2")]
    assert parts(check_stream(told(steps))) == [("message", "hm"), ("message", "2")]


def test_thoughts_are_sealed_for_those_who_ask() -> None:
    by = teller(seals_thoughts=True)
    told([BEGUN, Thought("so 2"), ENDED], by=by)
    (thought,) = by.whole()["output"]
    assert thought["encrypted_content"] == seal("so 2")


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "invalid_prompt"), (429, "rate_limit_exceeded"), (500, "server_error")],
)
def test_a_failure_before_the_beginning_is_told_alone(status: int, code: str) -> None:
    failure = Failure(
        status=status, message="no", field="input", code=None, retry_after_s=None
    )
    error, failed = teller().fail(failure)
    assert error.data == {
        "type": "error",
        "sequence_number": 0,
        "code": code,
        "message": "no",
        "param": "input",
    }
    assert failed.name == "response.failed"
    assert failed.data["response"]["error"]["code"] == code


def test_the_rules_can_be_broken() -> None:
    """The control: each event is missed, and each change of its numbers."""
    events = told(
        [BEGUN, Thought("a"), CallBegan(0, "add"), CallArgued(0, "{}"), ENDED]
    )
    check_stream(events)
    for at in range(len(events)):
        rest = events[:at] + events[at + 1 :]
        numbered = [
            (name, {**data, "sequence_number": number})
            for number, (name, data) in enumerate(rest)
        ]
        with pytest.raises(AssertionError):
            check_stream(numbered)
        for key in ("sequence_number", "output_index", "delta", "text", "arguments"):
            name, data = events[at]
            if key in data:
                wrong = 77 if isinstance(data[key], int) else data[key] + "x"
                changed = [*events]
                changed[at] = (name, {**data, key: wrong})
                with pytest.raises(AssertionError):
                    check_stream(changed)

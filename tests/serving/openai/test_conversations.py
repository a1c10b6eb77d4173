"""Bodies of chats become conversations."""

import json
from typing import Any

import pytest

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.openai.asking import tooling_of
from mell_jax.serving.openai.conversations import MAX_MESSAGES, conversation_of
from mell_jax.serving.openai.wire import ChatRequest, parse
from mell_jax.serving.problem import UnsupportedError
from mell_jax.text.conversation import Conversation

HELLO = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


def call(**function: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "f", **function}}


def read(**fields: Any) -> Conversation:
    body = {"messages": [HELLO], **fields}
    request, _ = parse(json.dumps(body).encode(), ChatRequest)
    return conversation_of(request, tooling=tooling_of(request))


def test_messages_are_those_that_agents_send() -> None:
    said = read(
        messages=[
            {"role": "developer", "content": "be brief", "name": "dev"},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "function_call": None,
                "audio": None,
                "reasoning_content": "hm",
                "tool_calls": [call(arguments='{"a": 1}'), call(arguments={"a": 1})],
            },
            {"role": "tool", "tool_call_id": "1", "content": "b"},
            {"role": "assistant", "content": "c", "reasoning": "h", "tool_calls": []},
        ]
    )
    assert list(said.messages) == [
        {"role": "system", "content": "be brief", "name": "dev"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "tool_calls": [call(arguments='{"a": 1}'), call(arguments={"a": 1})],
        },
        {"role": "tool", "content": "b", "tool_call_id": "1"},
        {"role": "assistant", "content": "c", "reasoning": "h"},
    ]


def test_a_call_may_leave_out_what_is_clear() -> None:
    bare = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    (message,) = read(messages=[bare]).messages
    function = {"name": "f", "arguments": ""}
    assert message["tool_calls"] == [{"type": "function", "function": function}]


def test_what_goes_with_messages() -> None:
    said = read()
    assert (said.tools, said.documents, said.kwargs) == (None, None, {})
    assert (said.asks_for_answer, said.continues) == (True, False)
    documents = [{"title": "t", "text": "x"}]
    kwargs = {"enable_thinking": False, "level": {"a": [1]}}
    said = read(tools=[TOOL], documents=documents, chat_template_kwargs=kwargs)
    assert (said.tools, said.documents, said.kwargs) == ([TOOL], documents, kwargs)
    assert json.dumps(said.tools) == json.dumps([TOOL])  # keys in their order
    said = read(tools=[TOOL], tool_choice="none", documents=[])
    assert (said.tools, said.documents) == (None, None)


@pytest.mark.parametrize(
    ("asks", "continues", "want"),
    [
        (None, None, (True, False)),
        (True, False, (True, False)),
        (False, None, (False, False)),
        (False, True, (False, True)),
        (None, True, (False, True)),
    ],
)
def test_where_the_text_ends(
    asks: bool | None, continues: bool | None, want: tuple[bool, bool]
) -> None:
    said = read(add_generation_prompt=asks, continue_final_message=continues)
    assert (said.asks_for_answer, said.continues) == want


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "ask for one of them",
        ),
        (
            {
                "continue_final_message": True,
                "messages": [{"role": "assistant", "tool_calls": [call()]}],
            },
            "continue_final_message",
            "needs a last message that has a text",
        ),
        (
            {"chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs",
            "may not have 'messages', which the server says itself",
        ),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs", "wrong type"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs", "got 'a b'"),
        ({"documents": ["x"]}, "documents", "wrong type"),
        ({"messages": []}, "messages", "must be 1 to 4096, got 0"),
        ({"messages": [HELLO] * (MAX_MESSAGES + 1)}, "messages", "got 4097"),
        ({"messages": [{"role": "root"}]}, "messages", "[0].role must be one of"),
        (
            {"messages": [HELLO, {"role": "user"}]},
            "messages",
            "[1].content is required",
        ),
        ({"messages": [{"role": "tool"}]}, "messages", "[0].content is required"),
        (
            {"messages": [{**HELLO, "tool_calls": [call()]}]},
            "messages",
            "[0].tool_calls are of messages of role assistant only",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            "messages",
            "",
        ),
    ],
)
def test_what_cannot_be_is_told_by_field(
    fields: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(**fields)
    assert caught.value.field == field
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"content": [{"type": "image_url", "image_url": {}}]}, "parts of text only"),
        (
            {"function_call": {"name": "f"}},
            "function_call is not supported: send tool_",
        ),
        ({"tool_calls": [{**call(), "type": "custom"}]}, "calls of functions only"),
    ],
)
def test_what_is_not_here_is_refused(message: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        read(messages=[{"role": "assistant", **message}])

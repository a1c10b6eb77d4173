"""Bodies of /v1/messages become wishes in the words of chat completions."""

import json
from typing import Any

import pytest

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.serving.anthropic.asking import wish_of
from mell_jax.serving.anthropic.fields import MESSAGES
from mell_jax.serving.anthropic.wire import MessagesRequest
from mell_jax.serving.chat.body import read_body
from mell_jax.serving.chat.wish import ChatWish

DEFAULTS = SamplingParams(temperature=0.6, top_p=0.9, top_k=20, min_p=0.1)
ADD = {"name": "add", "input_schema": {"type": "object"}}
USER = {"role": "user", "content": "a"}
USE = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}


def wish(*messages: Any, **fields: Any) -> ChatWish:
    body = {"max_tokens": 9, "messages": messages or [USER], **fields}
    request, _ = read_body(json.dumps(body).encode(), MessagesRequest, fields=MESSAGES)
    return wish_of(request, defaults=DEFAULTS)


def refused(*messages: Any, **fields: Any) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        wish(*messages, **fields)
    name, _, rule = str(caught.value).partition(" ")
    assert name == caught.value.field
    return f"{name}: {rule}"


def test_the_request_has_what_is_honoured_and_nothing_else() -> None:
    assert set(MessagesRequest.__struct_fields__) == MESSAGES.honoured
    assert not MESSAGES.honoured & MESSAGES.harmless
    assert not MESSAGES.refused.keys() & (MESSAGES.honoured | MESSAGES.harmless)


@pytest.mark.parametrize("name", sorted(MESSAGES.refused))
def test_what_is_not_here_is_refused_by_name_unless_nothing_is_asked(name: str) -> None:
    for value in (None, *MESSAGES.refused[name].neutral):
        wish(**{name: value})
    told = refused(**{name: {"something": "else"}})
    assert told.startswith(f"{name}: is not supported here")


def test_the_length_is_required() -> None:
    with pytest.raises(InvalidRequestError, match="max_tokens is required"):
        read_body(b'{"messages": []}', MessagesRequest, fields=MESSAGES)


def test_a_conversation_with_tools_becomes_that_of_chat() -> None:
    made = wish(
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "so", "signature": "x"},
                {"type": "text", "text": "I", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "add."},
                USE,
                {**USE, "id": "t2", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "2"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "no"}],
                    "is_error": True,
                },
                {"type": "text", "text": "and?"},
            ],
        },
        {"role": "assistant", "content": "2"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
        system=[{"type": "text", "text": "x"}, {"type": "text", "text": "y"}],
    )
    arguments = ('{"a":1}', "{}")
    calls = [
        {
            "id": id,
            "type": "function",
            "function": {"name": "add", "arguments": said},
        }
        for id, said in zip(("t1", "t2"), arguments, strict=True)
    ]
    assert made.messages == (
        {"role": "system", "content": "x\ny"},
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "I\nadd.",
            "reasoning_content": "so",
            "tool_calls": calls,
        },
        {"role": "tool", "tool_call_id": "t1", "content": "2"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "2"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "b"},
    )
    assert not made.continues_last


def test_an_answer_that_was_begun_goes_on() -> None:
    made = wish(USER, {"role": "assistant", "content": "The answer is"})
    assert made.continues_last
    assert made.messages[-1] == {"role": "assistant", "content": "The answer is"}


def test_messages_of_the_assistant_stay_apart() -> None:
    made = wish(
        USER,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "so"}]},
        {"role": "assistant", "content": "a"},
        USER,
    )
    assert [each["role"] for each in made.messages] == [
        "user",
        "assistant",
        "assistant",
        "user",
    ]


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ({"role": "tool", "content": "a"}, "[1].role must be one of user"),
        (
            {"role": "user", "content": [{"type": "image", "source": {}}]},
            "[1].content[0] is of the type 'image', which is not supported here",
        ),
        (
            {"role": "user", "content": [USE]},
            "[1].content[0] is of the type 'tool_use', which is not supported here in",
        ),
        (
            {"role": "user", "content": [{"type": "thinking", "thinking": "a"}]},
            "[1].content[0] is of the type 'thinking'",
        ),
        (
            {"role": "assistant", "content": [{"type": "redacted_thinking"}]},
            "[1].content[0] is of the type 'redacted_thinking'",
        ),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text"}],
            },
            "[1].content[0].text is required",
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t9", "content": "a"}
                ],
            },
            "[1].content[0].tool_use_id must be that of a tool_use before it, got 't9'",
        ),
        (
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t", "content": 7}],
            },
            "[1].content[0].content must be a text or a list of text blocks",
        ),
        (
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t",
                        "content": [{"type": "image"}],
                    }
                ],
            },
            "[1].content[0].content[0] may be a text only, got the type 'image'",
        ),
        ({"role": "user"}, "has a wrong type at messages[1]: object missing required"),
    ],
)
def test_a_block_that_cannot_be_read_is_named(message: Any, rule: str) -> None:
    assert refused(USER, message).startswith(f"messages: {rule}")


def test_the_system_says_texts_only() -> None:
    told = refused(system=[{"type": "text", "text": "a"}, {"type": "image"}])
    assert told == "system: [1] may be a text only, got the type 'image'"


def test_a_conversation_has_so_many_blocks_and_no_more() -> None:
    blocks = [{"type": "text", "text": "a"}] * 8192
    wish({"role": "user", "content": blocks}, {"role": "user", "content": blocks})
    told = refused(USER, *[{"role": "user", "content": blocks}] * 2)
    assert told.startswith("messages: may have at most 16384 blocks, got 16385")


def test_no_message_at_all_is_refused() -> None:
    body = b'{"messages": [], "max_tokens": 1, "system": "a"}'
    request, _ = read_body(body, MessagesRequest, fields=MESSAGES)
    with pytest.raises(InvalidRequestError, match="messages must have at least one"):
        wish_of(request, defaults=DEFAULTS)


def test_tools_and_choices_become_those_of_chat() -> None:
    tool = {**ADD, "type": "custom", "description": "adds", "strict": True}
    made = wish(tools=[tool, {**ADD, "name": "sub", "type": None}])
    assert made.tools == (
        {
            "type": "function",
            "function": {
                "name": "add",
                "description": "adds",
                "strict": True,
                "parameters": {"type": "object"},
            },
        },
        {
            "type": "function",
            "function": {"name": "sub", "parameters": {"type": "object"}},
        },
    )
    assert (made.tool_choice, made.is_parallel) == ("auto", True)

    def chosen(**choice: Any) -> tuple[Any, bool]:
        made = wish(tools=[ADD], tool_choice=choice)
        return made.tool_choice, made.is_parallel

    assert chosen(type="auto") == ("auto", True)
    assert chosen(type="auto", disable_parallel_tool_use=True) == ("auto", False)
    assert chosen(type="none") == ("none", True)
    assert chosen(type="any", disable_parallel_tool_use=True) == ("required", False)
    named = {"type": "function", "function": {"name": "add"}}
    assert chosen(type="tool", name="add") == (named, True)


@pytest.mark.parametrize(
    ("tools", "choice", "rule"),
    [
        (
            [{"type": "bash_20250124", "name": "bash"}],
            None,
            "tools: [0] is of the type",
        ),
        ([ADD, {"name": "f"}], None, "tools: [1].input_schema must be a JSON schema"),
        ([{"input_schema": {}}], None, "tools: [0].name is required"),
        (
            [{**ADD, "input_examples": [{}]}],
            None,
            "tools: [0] has input_examples, which",
        ),
        ([], {"type": "any"}, "tool_choice: of 'any' needs tools"),
        ([ADD], {"type": "tool", "name": "b"}, "tool_choice: names 'b', which is none"),
        (
            [ADD],
            {"type": "required"},
            "tool_choice: must have the type auto, any, none",
        ),
        ([ADD], {"type": "tool"}, "tool_choice: must have the type auto, any, none"),
    ],
)
def test_tools_that_are_not_here_are_refused_by_name(
    tools: Any, choice: Any, rule: str
) -> None:
    assert refused(tools=tools, tool_choice=choice).startswith(rule)


def test_a_model_thinks_where_it_is_told_to() -> None:
    assert wish().thinks is False
    assert wish(thinking={"type": "enabled", "budget_tokens": 1024}).thinks is True
    assert wish(thinking={"type": "disabled"}).thinks is False
    assert wish(thinking={"type": "adaptive"}).thinks is None
    told = refused(thinking={"type": "between_tools"})
    assert told.startswith("thinking: must have the type enabled, disabled or adaptive")
    told = refused(thinking={"type": "enabled", "display": "omitted"})
    assert told.startswith("thinking: has display, which is not supported here")


def test_the_answer_may_have_a_shape_and_an_effort() -> None:
    schema = {"type": "object"}
    made = wish(
        output_config={
            "effort": "low",
            "format": {"type": "json_schema", "schema": schema},
        }
    )
    assert made.effort == "low"
    assert made.response_format is not None
    assert made.response_format["json_schema"]["schema"] == schema
    for word in ("low", "medium", "high", "xhigh", "max"):
        assert wish(output_config={"effort": word}).effort == word
    told = refused(output_config={"format": {"type": "grammar"}})
    assert told.startswith("output_config: must have a format of the type json_schema")
    told = refused(output_config={"effort": "some"})
    assert told.startswith("output_config: must have an effort of low")


def test_parameters_are_the_models_where_the_request_is_silent() -> None:
    assert wish().params == SamplingParams(
        temperature=0.6, top_p=0.9, top_k=20, min_p=0.1, max_tokens=9
    )
    said = {"temperature": 0.0, "top_p": 1.0, "top_k": 3, "stop_sequences": ["x", "y"]}
    assert wish(**said).params == SamplingParams(
        temperature=0.0, top_k=3, min_p=0.1, max_tokens=9, stop=("x", "y")
    )

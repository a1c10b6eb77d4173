"""Bodies of /v1/responses become wishes in the words of chat completions."""

import json
from typing import Any

import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.serving.chat.body import read_body
from mell_jax.serving.chat.wish import ChatWish
from mell_jax.serving.openai.responses.asking import Asked, asked_by
from mell_jax.serving.openai.responses.conversation import seal
from mell_jax.serving.openai.responses.fields import RESPONSES
from mell_jax.serving.openai.responses.wire import ResponsesRequest

ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}}
ADD_IN_CHAT = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object"}},
}
DEFAULTS = SamplingParams(temperature=0.6, top_p=0.9, top_k=20, min_p=0.1)


def asked(input: Any = "a", **fields: Any) -> Asked:
    body = json.dumps({"input": input, **fields}).encode()
    request, _ = read_body(body, ResponsesRequest, fields=RESPONSES)
    return asked_by(request, defaults=DEFAULTS)


def wish(input: Any = "a", **fields: Any) -> ChatWish:
    return asked(input, **fields).wish


def refused(input: Any = "a", **fields: Any) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        asked(input, **fields)
    name, _, rule = str(caught.value).partition(" ")
    assert name == caught.value.field
    return f"{name}: {rule}"


def test_the_request_has_what_is_honoured_and_nothing_else() -> None:
    assert set(ResponsesRequest.__struct_fields__) == RESPONSES.honoured
    assert not RESPONSES.honoured & RESPONSES.harmless
    assert not RESPONSES.refused.keys() & (RESPONSES.honoured | RESPONSES.harmless)


def test_every_field_that_openai_publishes_is_in_the_table() -> None:
    published = {*ResponseCreateParamsBase.__annotations__, "stream"}
    assert {name for name in published if not RESPONSES.knows(name)} == set()


@pytest.mark.parametrize("name", sorted(RESPONSES.refused))
def test_what_is_not_here_is_refused_by_name_unless_nothing_is_asked(name: str) -> None:
    for value in (None, *RESPONSES.refused[name].neutral):
        asked(**{name: value})
    told = refused(**{name: {"something": "else"}})
    assert told.startswith(f"{name}: is not supported here")
    assert RESPONSES.refused[name].way_out in told


def test_a_conversation_that_was_left_to_the_server_is_refused_with_the_way_out() -> (
    None
):
    assert refused(previous_response_id="resp_1") == (
        "previous_response_id: is not supported here; nothing is kept here: send all "
        "items of the conversation as input"
    )
    assert "send all items" in refused(conversation={"id": "conv_1"})
    assert "use stream" in refused(background=True)
    assert "nothing is kept here" in refused(store=True)


def test_a_text_is_what_the_user_says_behind_the_instructions() -> None:
    assert wish("a").messages == ({"role": "user", "content": "a"},)
    assert wish("a", instructions="be brief").messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a"},
    )


def test_what_the_system_says_first_is_one_message() -> None:
    items = [
        {"role": "developer", "content": "b"},
        {"role": "system", "content": "c"},
        {"role": "user", "content": "d"},
        {"role": "developer", "content": "e"},
    ]
    assert wish(items, instructions="a").messages == (
        {"role": "system", "content": "a\n\nb\n\nc"},
        {"role": "user", "content": "d"},
        {"role": "developer", "content": "e"},
    )
    (first,) = wish([{"role": "developer", "content": "b"}]).messages
    assert first == {"role": "developer", "content": "b"}


def call_in_chat(id: str, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": id, "type": "function", "function": function}


def test_a_turn_of_thought_answer_and_calls_is_one_message() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "1 + 1?"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "add"}],
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "I", "annotations": []},
                {"type": "refusal", "refusal": "add."},
            ],
        },
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "add",
            "arguments": '{"a": 1}',
        },
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": "2"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [{"type": "input_text", "text": "3"}],
        },
        {"type": "message", "role": "assistant", "content": "2, 3"},
    ]
    assert wish(items).messages == (
        {"role": "user", "content": "1 + 1?"},
        {
            "role": "assistant",
            "content": "I\nadd.",
            "reasoning_content": "add",
            "tool_calls": [
                call_in_chat("c1", "add", '{"a": 1}'),
                call_in_chat("c2", "add", "{}"),
            ],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "assistant", "content": "2, 3"},
    )


def test_a_thought_comes_back_as_it_is_or_sealed_or_as_a_summary() -> None:
    def thought(**said: Any) -> object:
        items = [{"type": "reasoning", **said}, {"role": "assistant", "content": "a"}]
        (message,) = wish(items).messages
        return message.get("reasoning_content")

    content = [{"type": "reasoning_text", "text": "so"}]
    summary = [{"type": "summary_text", "text": "brief"}]
    assert thought(content=content, summary=summary) == "so"
    assert thought(encrypted_content=seal("sö"), summary=summary) == "sö"
    assert thought(summary=summary) == "brief"
    assert thought(summary=[]) is None


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        ({"role": "alien", "content": "a"}, "[1].role must be one of user"),
        ({"role": "user"}, "[1].content is required"),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "u"}]},
            "[1].content[0] is of the type 'input_image'; models here read text",
        ),
        (
            {"role": "user", "content": [{"type": "input_text"}]},
            "[1].content[0].text is required",
        ),
        ({"type": "item_reference", "id": "i"}, "[1] refers to an item"),
        (
            {"type": "web_search_call", "id": "i"},
            "[1] is of the type 'web_search_call'",
        ),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "[1].arguments is"),
        (
            {"type": "function_call_output", "call_id": "c", "output": "x"},
            "[1].call_id must be that of a function_call before it, got 'c'",
        ),
        (
            {"type": "reasoning", "encrypted_content": "gAAA"},
            "[1].encrypted_content was not written by this server",
        ),
        (
            {"type": "reasoning", "encrypted_content": "mell:*"},
            "[1].encrypted_content was not written by this server",
        ),
        (
            {"type": "reasoning", "summary": [{"type": "image"}]},
            "[1].summary[0] is of the type 'image'",
        ),
        ({"role": 7}, "has a wrong type at input[1].role: expected `str | null`"),
    ],
)
def test_an_item_that_cannot_be_read_is_named(item: Any, rule: str) -> None:
    told = refused([{"role": "user", "content": "a"}, item])
    assert told.startswith(f"input: {rule}")


def test_a_conversation_has_so_many_items_and_no_more() -> None:
    item = {"role": "user", "content": "a"}
    assert len(wish([item] * 16_384).messages) == 16_384
    assert refused([item] * 16_385).startswith("input: may have at most 16384 items")


def test_tools_lie_flat_and_become_those_of_chat() -> None:
    tools = [{**ADD, "description": "adds", "strict": True}]
    made = wish(tools=tools)
    assert made.tools == (
        {
            "type": "function",
            "function": {
                "name": "add",
                "description": "adds",
                "parameters": {"type": "object"},
                "strict": True,
            },
        },
    )
    assert (made.tool_choice, made.is_parallel) == ("auto", True)
    assert not wish(tools=tools, parallel_tool_calls=False).is_parallel
    assert wish(tools=[{"type": "function", "name": "f"}]).tools == (
        {"type": "function", "function": {"name": "f"}},
    )


def test_a_choice_of_tools_is_one_word_one_name_or_some_that_are_allowed() -> None:
    sub = {**ADD, "name": "sub"}
    for word in ("none", "auto", "required"):
        assert wish(tools=[ADD], tool_choice=word).tool_choice == word
    named = wish(tools=[ADD, sub], tool_choice={"type": "function", "name": "sub"})
    assert named.tool_choice == {"type": "function", "function": {"name": "sub"}}
    assert len(named.tools) == 2
    allowed = wish(
        tools=[sub, ADD],
        tool_choice={
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "add"}],
        },
    )
    assert (allowed.tool_choice, allowed.tools) == ("required", (ADD_IN_CHAT,))


@pytest.mark.parametrize(
    ("tools", "choice", "rule"),
    [
        ([{"type": "web_search"}], None, "tools: [0] is of the type 'web_search'"),
        ([ADD, {"type": "custom"}], None, "tools: [1] is of the type 'custom'"),
        ([{"type": "function"}], None, "tools: [0].name is required"),
        (
            [{**ADD, "parameters": 1}],
            None,
            "tools: [0].parameters must be a JSON schema",
        ),
        ([{**ADD, "defer_loading": True}], None, "tools: [0] has defer_loading, which"),
        ([], "required", "tool_choice: of 'required' needs tools"),
        ([ADD], "any", "tool_choice: must be none, auto, required"),
        ([ADD], {"type": "file_search"}, "tool_choice: must be none, auto, required"),
        ([ADD], {"type": "function", "name": "b"}, "tool_choice: names 'b', which is"),
        (
            [ADD],
            {"type": "allowed_tools", "mode": "auto"},
            "tool_choice: must name the",
        ),
        (
            [ADD],
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]},
            "tool_choice: may allow functions only",
        ),
        (
            [ADD],
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "b"}],
            },
            "tool_choice: names 'b', which is none of the tools",
        ),
    ],
)
def test_tools_that_are_not_here_are_refused_by_name(
    tools: Any, choice: Any, rule: str
) -> None:
    assert refused(tools=tools, tool_choice=choice).startswith(rule)


def test_formats_become_those_of_chat() -> None:
    def wanted(format: Any) -> Any:
        return wish(text={"format": format}).response_format

    assert wanted(None) is None and wanted({"type": "text"}) is None
    assert wanted({"type": "json_object"}) == {"type": "json_object"}
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    assert wanted({**schema, "strict": True}) == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
    }
    for wrong in ({"type": "json_schema", "name": "n"}, {"type": "grammar"}, "text"):
        assert refused(text={"format": wrong}).startswith("text: must have a format")
    wish(text={"verbosity": "medium"})
    told = refused(text={"verbosity": "low"})
    assert told.startswith(
        "text: has verbosity, which is not supported here with 'low'"
    )


def test_an_effort_says_whether_and_how_much_a_model_thinks() -> None:
    def thinking(**said: Any) -> tuple[bool | None, str | None]:
        made = wish(reasoning=said)
        return made.thinks, made.effort

    assert thinking() == (None, None)
    assert thinking(effort="none") == (False, None)
    for word in ("minimal", "low", "medium", "high", "xhigh", "max"):
        assert thinking(effort=word, summary="auto") == (True, word)
    assert refused(reasoning={"effort": "some"}).startswith("reasoning: must have an")
    told = refused(reasoning={"summary": "detailed"})
    assert told.startswith("reasoning: has summary, which is not supported here")


def test_thoughts_are_sealed_where_they_are_included() -> None:
    assert not asked().seals_thoughts
    assert asked(include=["reasoning.encrypted_content"]).seals_thoughts
    assert not asked(include=["file_search_call.results"]).seals_thoughts
    told = refused(include=["message.output_text.logprobs"])
    assert told.startswith("include: has 'message.output_text.logprobs', which is not")


def test_parameters_are_the_models_where_the_request_is_silent() -> None:
    assert wish().params == DEFAULTS
    fields = {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "max_output_tokens": 5.0,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.5,
        "logit_bias": {"3": 2.0},
        "seed": 4,
        "min_tokens": 2,
        "stop": "x",
        "ignore_eos": True,
    }
    assert wish(**fields).params == SamplingParams(
        temperature=0.0,
        max_tokens=5,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias={3: 2.0},
        seed=4,
        min_tokens=2,
        stop=("x",),
        ignore_eos=True,
    )


def test_a_response_repeats_what_was_asked_and_what_is_in_force() -> None:
    plain = {
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 0.6,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 0.9,
        "truncation": "disabled",
        "user": None,
    }
    assert asked().repeated == plain
    said = {
        "instructions": "be brief",
        "max_output_tokens": 5,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "safety_identifier": "s",
        "temperature": 0.1,
        "tool_choice": "none",
        "tools": [ADD],
        "top_p": 0.2,
        "user": "u",
    }
    wanted = {"format": {"type": "json_object"}}
    repeated = asked(**said, reasoning={"effort": "low"}, text=wanted).repeated
    assert repeated == {
        **plain,
        **said,
        "reasoning": {"effort": "low", "summary": None},
        "text": {**wanted, "verbosity": "medium"},
    }

"""Tools and the choice among them, as checked values."""

import json
from typing import Any

import pytest

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.serving.openai.asking import chat_params
from mell_jax.serving.openai.tools import MAX_TOOLS, Choice, Tool, Tooling, tooling_of
from mell_jax.serving.openai.wire import ChatRequest, parse
from mell_jax.serving.problem import UnsupportedError


def tool(name: Any = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def request(**fields: Any) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "a"}], **fields}
    return parse(json.dumps(body).encode(), ChatRequest)[0]


def read(**fields: Any) -> Tooling:
    return tooling_of(request(**fields))


NAMED = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(
    ("fields", "choice", "name"),
    [
        ({}, Choice.NONE, ""),
        ({"tools": []}, Choice.NONE, ""),
        ({"tool_choice": "auto"}, Choice.NONE, ""),
        ({"tools": [tool()]}, Choice.AUTO, ""),
        ({"tools": [tool()], "tool_choice": "auto"}, Choice.AUTO, ""),
        ({"tools": [tool()], "tool_choice": "none"}, Choice.NONE, ""),
        ({"tools": [tool()], "tool_choice": "required"}, Choice.REQUIRED, ""),
        ({"tools": [tool(), tool("g")], "tool_choice": NAMED}, Choice.NAMED, "g"),
    ],
)
def test_the_choice_is_what_the_client_says(
    fields: dict[str, Any], choice: Choice, name: str
) -> None:
    tooling = read(**fields)
    assert (tooling.choice, tooling.name) == (choice, name)
    shown = tooling.for_template()
    assert shown == (None if choice is Choice.NONE else fields["tools"])


def test_a_tool_is_read_whole_and_shown_as_it_came() -> None:
    schema = {"type": "object", "properties": {"ä": {"maximum": 2**70}}}
    sent = tool("get-it_2", description="d", parameters=schema, strict=True, extra=[1])
    tooling = read(tools=[sent, tool("x" * 64, description=None, strict=None)])
    assert tooling.tools == (
        Tool(
            name="get-it_2",
            description="d",
            parameters=schema,
            is_strict=True,
            source=sent,
        ),
        Tool(name="x" * 64, source=tool("x" * 64, description=None, strict=None)),
    )
    assert tooling.is_parallel
    assert not read(tools=[sent], parallel_tool_calls=False).is_parallel
    assert read(tools=[sent], parallel_tool_calls=None).is_parallel


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([{}], '[0].type must be "function", got None'),
        ([tool(), {"type": "custom"}], "[1].type must be \"function\", got 'custom'"),
        ([{"type": "function"}], "[0].function must be an object, got None"),
        ([tool(None)], "[0].function.name must be 1 to 64 of a-z"),
        ([tool("")], "[0].function.name must be"),
        ([tool("a b")], "[0].function.name must be"),
        ([tool("a\n")], "[0].function.name must be"),
        ([tool("x" * 65)], "[0].function.name must be"),
        ([tool("<|im_end|>")], "[0].function.name must be"),
        ([tool(description=1)], "[0].function.description must be a text, got 1"),
        ([tool(parameters=[])], "[0].function.parameters must be a JSON schema"),
        ([tool(strict=1)], "[0].function.strict must be true or false, got 1"),
        ([tool("f"), tool("g"), tool("f")], "[2] has the name of [0], 'f'"),
        ([tool(f"f{i}") for i in range(MAX_TOOLS + 1)], "may be at most 128, got 129"),
        ([1], "has a wrong type at tools[0]"),
        ("x", "has a wrong type"),
    ],
)
def test_what_is_no_tool_is_told_by_place_and_rule(tools: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(tools=tools)
    assert caught.value.field == "tools"
    assert f"tools {says}" in str(caught.value)


def test_as_many_tools_as_there_may_be() -> None:
    assert len(read(tools=[tool(f"f{i}") for i in range(MAX_TOOLS)]).tools) == MAX_TOOLS


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("any", 'must be "none", "auto", "required" or {"type": "function"'),
        ({"type": "function"}, "to name a tool"),
        ({"type": "function", "function": {"name": 1}}, "to name a tool"),
        ({"type": "allowed_tools", "function": {"name": "f"}}, "to name a tool"),
        (NAMED, "names 'g', which is none of tools"),
        ([], "has a wrong type"),
    ],
)
def test_a_choice_that_is_none_is_refused(choice: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(tools=[tool()], tool_choice=choice)
    assert caught.value.field == "tool_choice"
    assert says in str(caught.value)


def test_a_choice_needs_tools() -> None:
    with pytest.raises(InvalidRequestError, match="'required' needs tools"):
        read(tool_choice="required")
    with pytest.raises(InvalidRequestError, match="names 'g', which is none of tools"):
        read(tool_choice=NAMED)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tools": [tool()]}, "tools is not supported"),
        ({"functions": [{}]}, "functions is not supported: send tools and tool_choice"),
        (
            {"function_call": {"name": "f"}},
            "function_call is not supported: send tools",
        ),
        ({"audio": {"voice": "x"}}, "audio is not supported"),
    ],
)
def test_what_answers_cannot_have_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        chat_params(request(**fields), defaults=SamplingParams())


def test_what_asks_for_nothing_is_taken() -> None:
    chat_params(
        request(tools=[], functions=[], function_call="auto", tool_choice="none"),
        defaults=SamplingParams(),
    )

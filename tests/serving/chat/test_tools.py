"""Tools and the choice among them, as checked values."""

import json
from typing import Any

import pytest

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.chat.tools import Tooling
from mell_jax.serving.openai.asking import tooling_of
from mell_jax.serving.openai.wire import ChatRequest, parse
from mell_jax.text.answers import Choice, Tool
from mell_jax.text.answers.tools import MAX_TOOLS


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
    assert (tooling.box.choice.kind, tooling.box.choice.name) == (choice, name)
    shown = tooling.for_template()
    assert shown == (None if choice is Choice.NONE else fields["tools"])


def test_a_tool_is_read_whole_and_shown_as_it_came() -> None:
    schema = {"type": "object", "properties": {"ä": {"maximum": 2**70}}}
    sent = tool("get-it_2", description="d", parameters=schema, strict=True, extra=[1])
    tooling = read(tools=[sent, tool("x" * 64, description=None, strict=None)])
    assert tooling.box.tools == [
        Tool(name="get-it_2", description="d", parameters=schema, strict=True),
        Tool(name="x" * 64),
    ]
    assert tooling.sources == (sent, tool("x" * 64, description=None, strict=None))
    assert tooling.box.is_parallel
    assert not read(tools=[sent], parallel_tool_calls=False).box.is_parallel
    assert read(tools=[sent], parallel_tool_calls=None).box.is_parallel


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([{}], '[0].type must be "function", got None'),
        ([tool(), {"type": "custom"}], "[1].type must be \"function\", got 'custom'"),
        ([{"type": "function"}], "[0].function must be an object, got None"),
        ([tool(None)], "[0].function: a tool's name must have 1 to 64"),
        ([tool("")], "[0].function: a tool's name must have 1 to 64"),
        ([tool("a b")], "[0].function: a tool's name must have 1 to 64"),
        ([tool("a\n")], "[0].function: a tool's name must have 1 to 64"),
        ([tool("x" * 65)], "[0].function: a tool's name must have 1 to 64"),
        ([tool("<|im_end|>")], "[0].function: a tool's name must have 1 to 64"),
        ([tool(description=1)], "[0].function.description must be a text, got 1"),
        ([tool(parameters=[])], "[0].function.parameters must be a JSON schema"),
        ([tool(strict=1)], "[0].function.strict must be true or false, got 1"),
        ([tool("f"), tool("g"), tool("f")], "must have different names; two are f"),
        ([tool(f"f{i}") for i in range(MAX_TOOLS + 1)], "must be at most 128, got 129"),
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
    box = read(tools=[tool(f"f{i}") for i in range(MAX_TOOLS)]).box
    assert len(box.callable) == MAX_TOOLS


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

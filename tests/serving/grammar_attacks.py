"""Bodies of chats whose shapes and tools nobody means well with."""

import json
from collections.abc import Iterator
from typing import Any

from tests.grammar import attacks

Body = dict[str, Any]
CHAT: Body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3}


def shaped(schema: Any) -> Body:
    """A chat whose answer is of a schema."""
    named = {"name": "shape", "schema": schema, "strict": True}
    return {**CHAT, "response_format": {"type": "json_schema", "json_schema": named}}


def equipped(*tools: dict[str, Any], choice: Any = "required") -> Body:
    """A chat that must call one of these tools."""
    listed = [{"type": "function", "function": tool} for tool in tools]
    return {**CHAT, "tools": listed, "tool_choice": choice}


def _tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"name": name, "parameters": parameters or {"type": "object"}}


def _deep(levels: int, *, opening: str, ending: str) -> bytes:
    """A body with a schema that no JSON library of ours would write."""
    body = json.dumps(shaped("HERE"))
    schema = opening * levels + "{}" + ending * levels
    return body.replace('"HERE"', schema).encode()


def _tools() -> Iterator[tuple[str, Body]]:
    names = {
        "quotes": 'say "hi"',
        "a quote": "it's",
        "an end": "</tool_call>",
        "a break": "a\nb",
        "no letter": "\x00",
        "braces": '"}}{"name": "other',
        "nothing": "",
        "many letters": "n" * 10_000,
        "other letters": "größe_日",
    }
    for kind, name in names.items():
        yield f"a name with {kind}", equipped(_tool(name), _tool("good"))
        chosen = {"type": "function", "function": {"name": name}}
        yield f"a choice with {kind}", equipped(_tool(name), choice=chosen)
    for count in (100, 1000):
        many = [_tool(f"tool_{number}") for number in range(count)]
        yield f"{count} tools", equipped(*many)
        yield f"{count} tools of one name", equipped(*[_tool("same")] * count)
    parameters = {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"properties": {"x": {"$ref": "#/$defs/a"}}}},
    }
    yield "a tool that refers to itself", equipped(_tool("good", parameters))
    large = [
        _tool(f"tool_{number}", attacks.SCHEMAS["properties 2,000, none required"])
        for number in range(20)
    ]
    yield "20 large tools", equipped(*large)
    for name in ("doubled", "laughs anyOf", "items 10^18", "all of itself"):
        yield f"a tool of {name}", equipped(_tool("good", attacks.SCHEMAS[name]))


def bodies() -> dict[str, bytes]:
    """All of them by name."""
    named: dict[str, Body] = {
        **{f"schema {name}": shaped(one) for name, one in attacks.SCHEMAS.items()},
        **{
            f"regex {name}": {**CHAT, "structured_outputs": {"regex": one}}
            for name, one in attacks.REGEXES.items()
        },
        **{
            f"lark {name}": {**CHAT, "structured_outputs": {"grammar": one}}
            for name, one in attacks.LARKS.items()
        },
        "choices 100,000": {
            **CHAT,
            "structured_outputs": {"choice": [f"c{i}" for i in range(100_000)]},
        },
        "a schema that is a list": shaped([{"type": "object"}]),
        "a schema of null": shaped(None),
        **dict(_tools()),
    }
    made = {name: json.dumps(body).encode() for name, body in named.items()}
    made["10 MB"] = (
        json.dumps(shaped({"enum": ["LARGE"]}))
        .encode()
        .replace(b'{"enum": ["LARGE"]}', attacks.large_schema().encode())
    )
    made["levels 500"] = _deep(500, opening='{"items":', ending="}")
    made["levels 100,000"] = _deep(100_000, opening='{"items":', ending="}")
    made["lists 100,000"] = _deep(100_000, opening="[", ending="]")
    return made


def flood(count: int) -> Iterator[bytes]:
    """So many good schemas, all different, that are not quick to compile."""
    for number in range(count):
        named = ((f"p{i}_{number}", i) for i in range(40))
        properties = {
            name: {"type": "integer", "multipleOf": 7 + i} for name, i in named
        }
        yield json.dumps(shaped({"type": "object", "properties": properties})).encode()


QUICK = {
    *("schema doubled", "schema laughs anyOf", "schema refers in a circle"),
    *("schema items 10^18", "schema patterns that overlap", "regex (a+)+b"),
    *("regex states 2^30", "regex groups 5,000", "lark doubling", "lark null"),
    *("1000 tools", "a name with quotes", "a choice with quotes", "10 MB"),
    *("a name with an end", "levels 100,000", "20 large tools", "lark a megabyte"),
}
"""A sample of each kind."""

"""langchain-openai calls tools and gets shapes: python ask_langchain.py URL

By chat completions and by responses, whole and as streams. The server has the demo
model. Runs in an environment of its own, without mell_jax.
"""

import json
import sys
from functools import reduce
from operator import add
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from wanted import (
    MODEL,
    SHAPE_TOKENS,
    SKY,
    STORY,
    STORY_TOKENS,
    TOOL,
    Weather,
    check_call,
    check_story,
)


@tool(TOOL, args_schema=Weather)
def get_weather(city: str, days: int, note: str) -> str:
    """Tells the weather of some days."""
    return f"{SKY} {city} {days} {note}"


def new_model(url: str, *, tokens: int = SHAPE_TOKENS, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL,
        base_url=f"{url}/v1",
        api_key="none",
        temperature=0,
        max_tokens=tokens,
        max_retries=0,
        **more,
    )


def check_calls(model: ChatOpenAI) -> None:
    """A tool is called, run, and its result is told to the model."""
    bound = model.bind_tools(
        [get_weather], tool_choice="required", parallel_tool_calls=False, strict=True
    )
    message = bound.invoke(STORY)
    assert isinstance(message, AIMessage) and not message.invalid_tool_calls, message
    (call,) = message.tool_calls
    assert call["id"] and message.usage_metadata["output_tokens"] > 10, message
    check_call(call["name"], json.dumps(call["args"]))
    chunks = list(bound.stream(STORY))
    pieces = [c for chunk in chunks for c in chunk.tool_call_chunks if c["args"]]
    assert len(pieces) > 3, f"{len(pieces)} parts are no stream"
    (streamed,) = reduce(add, chunks).tool_calls
    assert (streamed["name"], streamed["args"]) == (call["name"], call["args"])
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage) and SKY in result.content, result
    free = model.bind_tools([get_weather], tool_choice="none")
    told = free.invoke([HumanMessage(STORY), message, result])
    assert told.text and not told.tool_calls, told


def check_shapes(model: ChatOpenAI) -> None:
    """A shape comes by a schema and by a call."""
    for method in ("json_schema", "function_calling"):
        shaped = model.with_structured_output(
            Weather, method=method, strict=True, include_raw=True
        )
        answer = shaped.invoke(STORY)
        assert answer["parsing_error"] is None, answer
        assert isinstance(answer["parsed"], Weather), answer
    assert isinstance(model.with_structured_output(Weather).invoke(STORY), Weather)
    *_, last = model.with_structured_output(Weather).stream(STORY)
    assert isinstance(last, Weather), last


def check_stories(model: ChatOpenAI) -> None:
    message = model.invoke(STORY)
    assert message.usage_metadata["output_tokens"] == STORY_TOKENS, message
    chunks = list(model.stream(STORY))
    check_story(message.text, [chunk.text for chunk in chunks])
    usage = reduce(add, chunks).usage_metadata
    assert usage is not None and usage["output_tokens"] == STORY_TOKENS, usage


def main(url: str) -> None:
    for by_responses in (False, True):
        kind = {"use_responses_api": by_responses}
        check_calls(new_model(url, **kind))
        check_shapes(new_model(url, **kind))
        check_stories(new_model(url, **kind, tokens=STORY_TOKENS, stream_usage=True))
    print("langchain-openai: tools, shapes and streams are as wanted")


if __name__ == "__main__":
    main(sys.argv[1])

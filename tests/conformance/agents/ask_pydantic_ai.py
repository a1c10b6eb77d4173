"""pydantic-ai's agents call tools and get shapes: python ask_pydantic_ai.py URL

By chat completions and by responses, whole and as streams. The server has the demo
model. Runs in an environment of its own, without mell_jax.
"""

import sys
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent, NativeOutput, RunContext, Tool, ToolOutput
from pydantic_ai.messages import ToolCallPart, ToolReturnPart
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
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

SETTINGS = {"temperature": 0, "parallel_tool_calls": False}


def settings_of(context: RunContext[None]) -> dict[str, Any]:
    """A tool is required until it was called."""
    called = any(
        isinstance(part, ToolReturnPart)
        for message in context.messages
        for part in message.parts
    )
    choice = "none" if called else "required"
    return {**SETTINGS, "max_tokens": SHAPE_TOKENS, "tool_choice": choice}


def check_calls(model: Model) -> None:
    """An agent has its tool called, runs it, and goes on with the result."""
    heard: list[Weather] = []

    def get_weather(weather: Weather) -> str:
        heard.append(weather)
        return SKY

    tool = Tool(get_weather, name=TOOL, strict=True)
    agent = Agent(model, tools=[tool], model_settings=settings_of)
    result = agent.run_sync(STORY)
    calls = [
        part
        for message in result.all_messages()
        for part in message.parts
        if isinstance(part, ToolCallPart)
    ]
    (call,) = calls
    assert call.tool_call_id, call
    assert heard == [check_call(call.tool_name, call.args_as_json_str())], heard
    assert result.output and result.usage.output_tokens > 20, result
    streamed = agent.run_stream_sync(STORY)
    parts = list(streamed.stream_text(delta=True, debounce_by=None))
    assert heard == [heard[0]] * 2, heard
    check_story(result.output, parts)


def check_shapes(model: Model) -> None:
    """A shape comes by a schema and by a call."""
    settings = {**SETTINGS, "max_tokens": SHAPE_TOKENS}
    for output in (NativeOutput(Weather), ToolOutput(Weather, strict=True)):
        agent = Agent(model, output_type=output, model_settings=settings, retries=0)
        whole = agent.run_sync(STORY).output
        assert isinstance(whole, Weather), whole
        streamed = agent.run_stream_sync(STORY)
        parts = list(streamed.stream_output(debounce_by=None))
        assert parts[-1] == whole, parts


def check_stories(model: Model) -> None:
    agent = Agent(model, model_settings={**SETTINGS, "max_tokens": STORY_TOKENS})
    result = agent.run_sync(STORY)
    assert result.usage.output_tokens == STORY_TOKENS, result
    streamed = agent.run_stream_sync(STORY)
    parts = list(streamed.stream_text(delta=True, debounce_by=None))
    check_story(result.output, parts)


def main(url: str) -> None:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    provider = OpenAIProvider(openai_client=client)
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        model = kind(MODEL, provider=provider)
        check_calls(model)
        check_shapes(model)
        check_stories(model)
    print("pydantic-ai: tools, shapes and streams are as wanted")


if __name__ == "__main__":
    main(sys.argv[1])

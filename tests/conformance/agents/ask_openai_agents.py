"""OpenAI's agents call tools and get shapes: python ask_openai_agents.py URL

By responses, as they do of themselves, and by chat completions, whole and as streams.
The server has the demo model. Runs in an environment of its own, without mell_jax.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import agents
from openai import AsyncOpenAI
from wanted import (
    MODEL,
    SHAPE_TOKENS,
    SKY,
    STORY,
    TOOL,
    Weather,
    check_call,
    check_story,
)

END = " and "  # of a story: an answer that is cut off is an error to them
NewAgent = Callable[..., agents.Agent]


def maker_of(model: agents.Model) -> NewAgent:
    def make(*, more: Any = None, **rest: Any) -> Any:
        settings = agents.ModelSettings(
            temperature=0,
            max_tokens=SHAPE_TOKENS,
            extra_body={"stop": [END]},
            **(more or {}),
        )
        return agents.Agent(name="teller", model=model, model_settings=settings, **rest)

    return make


async def texts_of(run: agents.RunResultStreaming) -> list[str]:
    """The pieces of text of a run's last answer."""
    heard: list[str] = []
    async for event in run.stream_events():
        if event.type != "raw_response_event":
            continue
        if event.data.type == "response.created":
            heard.clear()
        if event.data.type == "response.output_text.delta":
            heard.append(event.data.delta)
    return heard


async def check_calls(make: NewAgent) -> None:
    """An agent has its tool called, runs it, and goes on with the result."""
    heard: list[str] = []

    async def invoke(_: Any, arguments: str) -> str:
        heard.append(arguments)
        return SKY

    get_weather = agents.FunctionTool(
        name=TOOL,
        description="Tells the weather of some days.",
        params_json_schema=Weather.model_json_schema(),
        on_invoke_tool=invoke,
    )
    required = {"tool_choice": "required", "parallel_tool_calls": False}
    agent = make(tools=[get_weather], more=required)
    run = await agents.Runner.run(agent, STORY)
    kinds = [item.type for item in run.new_items]
    assert kinds == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    call = run.new_items[0].raw_item
    assert call.call_id and heard == [call.arguments], (call, heard)
    check_call(call.name, call.arguments)
    streamed = agents.Runner.run_streamed(agent, STORY)
    check_story(run.final_output, await texts_of(streamed))
    assert heard == [call.arguments] * 2, heard
    stopping = make(
        tools=[get_weather], more=required, tool_use_behavior="stop_on_first_tool"
    )
    assert (await agents.Runner.run(stopping, STORY)).final_output == SKY


async def check_shapes(make: NewAgent) -> None:
    agent = make(output_type=Weather)
    run = await agents.Runner.run(agent, STORY)
    assert isinstance(run.final_output, Weather), run
    streamed = agents.Runner.run_streamed(agent, STORY)
    text = "".join(await texts_of(streamed))
    assert Weather.model_validate_json(text, strict=True) == run.final_output, text
    assert streamed.final_output == run.final_output, streamed


async def check_stories(make: NewAgent) -> None:
    agent = make()
    run = await agents.Runner.run(agent, STORY)
    assert run.raw_responses[0].usage.output_tokens > 5, run.raw_responses
    parts = await texts_of(agents.Runner.run_streamed(agent, STORY))
    check_story(run.final_output, parts)


async def main(url: str) -> None:
    agents.set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    for kind in (agents.OpenAIResponsesModel, agents.OpenAIChatCompletionsModel):
        make = maker_of(kind(model=MODEL, openai_client=client))
        await check_calls(make)
        await check_shapes(make)
        await check_stories(make)
    print("openai-agents: tools, shapes and streams are as wanted")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

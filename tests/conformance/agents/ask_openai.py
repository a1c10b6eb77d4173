"""The openai client calls tools and gets shapes: python ask_openai.py URL

By chat completions and by responses, whole and as streams. The server has the demo
model. Runs in an environment of its own, without mell_jax.
"""

import json
import sys
from typing import Any

import openai
from wanted import (
    MODEL,
    SHAPE_TOKENS,
    SKY,
    STORY,
    STORY_TOKENS,
    TOOL,
    Weather,
    check_call,
    check_parts,
    check_story,
)

USER = {"role": "user", "content": STORY}
CHAT_TOOL = openai.pydantic_function_tool(Weather, name=TOOL)
CHAT = {"model": MODEL, "messages": [USER], "temperature": 0}
CALLING = {
    **CHAT,
    "max_completion_tokens": SHAPE_TOKENS,
    "tools": [CHAT_TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
}
RESPONDING = {"model": MODEL, "input": STORY, "temperature": 0}
RESPONSE_CALLING = {
    **RESPONDING,
    "max_output_tokens": SHAPE_TOKENS,
    "tools": [{"type": "function", **CHAT_TOOL["function"]}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
}


def check_chat_calls(client: openai.OpenAI) -> None:
    choice = client.chat.completions.parse(**CALLING).choices[0]
    assert choice.finish_reason == "tool_calls", choice
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.id and choice.message.content is None
    wanted = check_call(call.function.name, call.function.arguments)
    assert call.function.parsed_arguments == wanted, call
    named = {"type": "function", "function": {"name": TOOL}}
    again = client.chat.completions.create(**{**CALLING, "tool_choice": named})
    (other,) = again.choices[0].message.tool_calls
    assert other.function == client_function(call) and other.id != call.id
    allowed = {"mode": "required", "tools": [named]}
    only = {"type": "allowed_tools", "allowed_tools": allowed}
    third = client.chat.completions.create(**{**CALLING, "tool_choice": only})
    assert third.choices[0].message.tool_calls[0].function == other.function, third
    check_streamed_call(client, call.function.arguments)
    check_many_calls(client)
    result = {"role": "tool", "tool_call_id": call.id, "content": SKY}
    told = client.chat.completions.create(
        **{**CALLING, "messages": [USER, choice.message, result], "tool_choice": "none"}
    )
    assert told.choices[0].message.content and not told.choices[0].message.tool_calls
    free = client.chat.completions.create(**{**CALLING, "tool_choice": "auto"})
    assert free.choices[0].message.content, free


def client_function(call: Any) -> Any:
    """The function of a parsed call, as a client has it that does not parse."""
    function = call.function
    return openai.types.chat.chat_completion_message_function_tool_call.Function(
        name=function.name, arguments=function.arguments
    )


def check_streamed_call(client: openai.OpenAI, arguments: str) -> None:
    """First come id, type and name, then the arguments in pieces, then the reason."""
    chunks = list(client.chat.completions.create(**CALLING, stream=True))
    deltas = [
        call
        for chunk in chunks
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
    ]
    first, *rest = deltas
    assert first.id and first.type == "function", first
    assert first.function.name == TOOL and first.function.arguments == "", first
    assert all(not (d.id or d.type or d.function.name) for d in rest), rest
    assert {delta.index for delta in deltas} == {0}, deltas
    check_parts(arguments, [delta.function.arguments for delta in rest])
    reasons = [c.finish_reason for chunk in chunks for c in chunk.choices]
    assert reasons[-1] == "tool_calls" and not any(reasons[:-1]), reasons
    with client.chat.completions.stream(**CALLING) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion().choices[0]
    assert [event.arguments for event in done] == [arguments], done
    assert final.message.tool_calls[0].function.arguments == arguments, final


def check_many_calls(client: openai.OpenAI) -> None:
    """Of calls side by side all but one that was cut off have arguments."""
    many = client.chat.completions.create(**{**CALLING, "parallel_tool_calls": True})
    calls = many.choices[0].message.tool_calls
    assert len({call.id for call in calls}) == len(calls), calls
    is_cut = many.choices[0].finish_reason == "length"
    for call in calls[: len(calls) - is_cut]:
        check_call(call.function.name, call.function.arguments)


def check_chat_shapes(client: openai.OpenAI) -> None:
    asked = {**CHAT, "max_completion_tokens": SHAPE_TOKENS, "response_format": Weather}
    choice = client.chat.completions.parse(**asked).choices[0]
    assert choice.finish_reason == "stop" and isinstance(choice.message.parsed, Weather)
    with client.chat.completions.stream(**asked) as stream:
        parts = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0].message
    check_parts(choice.message.content, parts)
    assert final.parsed == choice.message.parsed, final
    free = client.chat.completions.create(
        **{**asked, "response_format": {"type": "json_object"}}, stop=["}"]
    )
    assert free.choices[0].message.content.lstrip().startswith("{"), free


def check_response_calls(client: openai.OpenAI) -> None:
    response = client.responses.create(**RESPONSE_CALLING)
    assert response.status == "completed" and response.error is None, response
    (call,) = response.output
    assert call.type == "function_call" and call.status == "completed", call
    assert call.id and call.call_id and call.id != call.call_id, call
    check_call(call.name, call.arguments)
    parsed = client.responses.parse(**RESPONSE_CALLING).output[0]
    assert parsed.arguments == call.arguments, parsed
    with client.responses.stream(**RESPONSE_CALLING) as stream:
        events = list(stream)
        final = stream.get_final_response().output[0]
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers)), numbers
    kind = "response.function_call_arguments.delta"
    check_parts(call.arguments, [e.delta for e in events if e.type == kind])
    assert final.arguments == call.arguments and final.call_id, final
    result = {"type": "function_call_output", "call_id": call.call_id, "output": SKY}
    told = client.responses.create(
        **{
            **RESPONSE_CALLING,
            "input": [USER, *response.output, result],
            "tool_choice": "none",
        }
    )
    assert told.output_text and told.output[0].type == "message", told


def check_response_shapes(client: openai.OpenAI) -> None:
    asked = {**RESPONDING, "max_output_tokens": SHAPE_TOKENS, "text_format": Weather}
    response = client.responses.parse(**asked)
    assert isinstance(response.output_parsed, Weather), response
    assert json.loads(response.output_text) == response.output_parsed.model_dump()
    with client.responses.stream(**asked) as stream:
        parts = [e.delta for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    check_parts(response.output_text, parts)
    assert final.output_parsed == response.output_parsed, final


def check_response_stories(client: openai.OpenAI) -> None:
    asked = {**RESPONDING, "max_output_tokens": STORY_TOKENS}
    response = client.responses.create(**asked)
    assert response.status == "incomplete", response
    assert response.incomplete_details.reason == "max_output_tokens", response
    assert response.usage.output_tokens == STORY_TOKENS, response
    events = list(client.responses.create(**asked, stream=True))
    assert events[0].type == "response.created", events[0]
    assert events[-1].type == "response.incomplete", events[-1]
    kind = "response.output_text.delta"
    check_story(response.output_text, [e.delta for e in events if e.type == kind])
    try:
        client.responses.create(**asked, previous_response_id=response.id)
    except openai.BadRequestError as error:
        assert error.param == "previous_response_id", error
    else:
        raise AssertionError("a response was gone on with that nobody keeps")


def main(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    check_chat_calls(client)
    check_chat_shapes(client)
    check_response_calls(client)
    check_response_shapes(client)
    check_response_stories(client)
    print("openai: tools, shapes and responses are as wanted")


if __name__ == "__main__":
    main(sys.argv[1])

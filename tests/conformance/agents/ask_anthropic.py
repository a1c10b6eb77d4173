"""The anthropic client calls tools and gets shapes: python ask_anthropic.py URL

By messages, whole and as streams. The server has the demo model. Runs in an environment
of its own, without mell_jax.
"""

import json
import sys

import anthropic
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
ASKED = {"model": MODEL, "messages": [USER], "extra_body": {"temperature": 0}}
CALLING = {
    **ASKED,
    "max_tokens": SHAPE_TOKENS,
    "tools": [{"name": TOOL, "input_schema": Weather.model_json_schema()}],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
}


def check_calls(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**CALLING)
    assert message.stop_reason == "tool_use", message
    (use,) = message.content
    assert use.type == "tool_use" and use.id, use
    check_call(use.name, json.dumps(use.input))
    named = {"type": "tool", "name": TOOL, "disable_parallel_tool_use": True}
    (other,) = client.messages.create(**{**CALLING, "tool_choice": named}).content
    assert other.input == use.input and other.id != use.id, other
    with client.messages.stream(**CALLING) as stream:
        parts = [e.partial_json for e in stream if e.type == "input_json"]
        final = stream.get_final_message()
    whole = "".join(parts)
    check_parts(whole, [part for part in parts if part])
    assert json.loads(whole) == use.input == final.content[0].input, final
    assert final.stop_reason == "tool_use", final
    result = {"type": "tool_result", "tool_use_id": use.id, "content": SKY}
    said = [
        USER,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    told = client.messages.create(
        **{**CALLING, "messages": said, "tool_choice": {"type": "none"}}
    )
    assert [block.type for block in told.content] == ["text"], told


def check_shapes(client: anthropic.Anthropic) -> None:
    asked = {**ASKED, "max_tokens": SHAPE_TOKENS, "output_format": Weather}
    message = client.messages.parse(**asked)
    assert message.stop_reason == "end_turn", message
    assert isinstance(message.parsed_output, Weather), message
    schema = {"type": "json_schema", "schema": Weather.model_json_schema()}
    del asked["output_format"]
    with client.messages.stream(**asked, output_config={"format": schema}) as stream:
        text = "".join(stream.text_stream)
    Weather.model_validate_json(text, strict=True)


def check_stories(client: anthropic.Anthropic) -> None:
    asked = {**ASKED, "max_tokens": STORY_TOKENS}
    message = client.messages.create(**asked)
    assert message.stop_reason == "max_tokens", message
    assert message.usage.output_tokens == STORY_TOKENS, message
    with client.messages.stream(**asked) as stream:
        parts = list(stream.text_stream)
        final = stream.get_final_message()
    check_story(message.content[0].text, parts)
    assert final.usage.output_tokens == STORY_TOKENS, final
    try:
        client.messages.create(**{**asked, "model": "none"})
    except anthropic.NotFoundError as error:
        assert error.body["error"]["type"] == "not_found_error", error.body
    else:
        raise AssertionError("a model was found that is not there")


def main(url: str) -> None:
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    check_calls(client)
    check_shapes(client)
    check_stories(client)
    print("anthropic: tools, shapes and streams are as wanted")


if __name__ == "__main__":
    main(sys.argv[1])

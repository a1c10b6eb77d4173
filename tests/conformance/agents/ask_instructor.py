"""instructor gets shapes in each of its ways: python ask_instructor.py URL

By calls of a tool, by a schema and by JSON, whole, in part and as lists. The server has
the demo model. Runs in an environment of its own, without mell_jax.
"""

import sys

import instructor
import openai
from wanted import (
    MODEL,
    SHAPE_TOKENS,
    STORY,
    STORY_TOKENS,
    TOOL,
    Weather,
    check_call,
    check_story,
)

MODES = (
    instructor.Mode.TOOLS,
    instructor.Mode.TOOLS_STRICT,
    instructor.Mode.JSON_SCHEMA,
)
ASKED = {
    "model": MODEL,
    "messages": [{"role": "user", "content": STORY}],
    "temperature": 0,
}
SHAPED = {**ASKED, "max_tokens": SHAPE_TOKENS, "response_model": Weather}


def check_mode(client: openai.OpenAI, mode: instructor.Mode) -> None:
    shaper = instructor.from_openai(client, mode=mode)
    weather, raw = shaper.create_with_completion(**SHAPED, max_retries=0)
    assert isinstance(weather, Weather), weather
    message = raw.choices[0].message
    if mode is instructor.Mode.JSON_SCHEMA:
        check_call(TOOL, message.content)
    else:
        (call,) = message.tool_calls
        assert call.function.name == Weather.__name__, call
        check_call(TOOL, call.function.arguments)
    *parts, last = shaper.create_partial(**SHAPED, max_retries=0)
    assert len(parts) > 3, f"{len(parts)} parts are no stream"
    assert last.model_dump() == weather.model_dump(), last


def check_story_of(client: openai.OpenAI) -> None:
    """Without a shape it is the client that it was."""
    teller = instructor.from_openai(client)
    asked = {**ASKED, "max_tokens": STORY_TOKENS, "response_model": None}
    whole = teller.create(**asked)
    parts = [p.choices[0].delta.content for p in teller.create(**asked, stream=True)]
    check_story(whole.choices[0].message.content, parts)


def main(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    for mode in MODES:
        check_mode(client, mode)
    check_story_of(client)
    print("instructor: tools, shapes and streams are as wanted")


if __name__ == "__main__":
    main(sys.argv[1])

"""litellm calls tools and gets shapes: python ask_litellm.py URL

As an OpenAI-compatible provider, whole and as streams, and by its own rebuilding of a
stream's chunks. The server has the demo model. Runs in an environment of its own,
without mell_jax.
"""

import sys
from typing import Any

import litellm
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
CALLING = {
    "max_tokens": SHAPE_TOKENS,
    "tools": [
        {
            "type": "function",
            "function": {"name": TOOL, "parameters": Weather.model_json_schema()},
        }
    ],
    "tool_choice": "required",
    "parallel_tool_calls": False,
}


litellm.suppress_debug_info = True


class Asker:
    """Asks one server."""

    def __init__(self, url: str) -> None:
        self._to = {
            "model": f"openai/{MODEL}",
            "api_base": f"{url}/v1",
            "api_key": "none",
            "temperature": 0,
            "num_retries": 0,
        }

    def ask(self, *messages: Any, **more: Any) -> Any:
        asked = {**self._to, "messages": list(messages) or [USER], **more}
        return litellm.completion(**asked)

    def respond(self, **more: Any) -> Any:
        return litellm.responses(**{**self._to, "input": STORY, **more})


def check_calls(asker: Asker) -> None:
    choice = asker.ask(**CALLING).choices[0]
    assert choice.finish_reason == "tool_calls", choice
    (call,) = choice.message.tool_calls
    assert call.id and call.type == "function", call
    check_call(call.function.name, call.function.arguments)
    chunks = list(asker.ask(**CALLING, stream=True))
    deltas = [d for c in chunks for d in c.choices[0].delta.tool_calls or []]
    pieces = [delta.function.arguments for delta in deltas]
    check_parts(call.function.arguments, pieces)
    built = litellm.stream_chunk_builder(chunks).choices[0]
    assert built.finish_reason == "tool_calls", built
    (whole,) = built.message.tool_calls
    assert whole.function.name == TOOL and whole.id == deltas[0].id, whole
    assert whole.function.arguments == call.function.arguments, whole
    result = {"role": "tool", "tool_call_id": call.id, "content": SKY}
    said = [USER, choice.message, result]
    told = asker.ask(*said, **{**CALLING, "tool_choice": "none"}).choices[0]
    assert told.message.content and not told.message.tool_calls, told


def check_shapes(asker: Asker) -> None:
    asked = {"max_tokens": SHAPE_TOKENS, "response_format": Weather}
    choice = asker.ask(**asked).choices[0]
    assert choice.finish_reason == "stop", choice
    Weather.model_validate_json(choice.message.content, strict=True)
    parts = [c.choices[0].delta.content for c in asker.ask(**asked, stream=True)]
    check_parts(choice.message.content, [part for part in parts if part])


def check_stories(asker: Asker) -> None:
    answer = asker.ask(max_tokens=STORY_TOKENS)
    assert answer.choices[0].finish_reason == "length", answer
    assert answer.usage.completion_tokens == STORY_TOKENS, answer
    stream = asker.ask(max_tokens=STORY_TOKENS, stream=True)
    parts = [chunk.choices[0].delta.content for chunk in stream]
    check_story(answer.choices[0].message.content, parts)


def check_responses(asker: Asker) -> None:
    asked = {
        "max_output_tokens": SHAPE_TOKENS,
        "tools": [
            {
                "type": "function",
                "name": TOOL,
                "parameters": Weather.model_json_schema(),
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    (call,) = asker.respond(**asked).output
    assert call.type == "function_call" and call.call_id, call
    check_call(call.name, call.arguments)
    events = list(asker.respond(**asked, stream=True))
    kind = "response.function_call_arguments.delta"
    check_parts(call.arguments, [e.delta for e in events if e.type == kind])


def main(url: str) -> None:
    asker = Asker(url)
    check_calls(asker)
    check_shapes(asker)
    check_stories(asker)
    check_responses(asker)
    print("litellm: tools, shapes and streams are as wanted")


if __name__ == "__main__":
    main(sys.argv[1])

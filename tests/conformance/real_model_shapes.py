"""A real model answers in shape over HTTP: tools, schemas and expressions.

The server has SmolLM2-135M-Instruct, the template `hermes.jinja` and
`--tool_format=hermes`. Its answers are greedy; of a model so small the structure is
asked for, and few of the words.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import openai

MAX_TOKENS = 48
CALLING = "Answer with a <tool_call> for the weather in Paris."
ADDING = "Answer with a <tool_call> to add 3 and 4."


def tool(name: str, description: str, **types: str) -> dict[str, Any]:
    """A function all of whose arguments are required."""
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in types.items()},
        "required": list(types),
        "additionalProperties": False,
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


WEATHER = tool("get_weather", "Get the current weather in a city", city="string")
ADD = tool("add", "Add two numbers", a="integer", b="integer")
COUNTRY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "capital": {"type": "string", "maxLength": 40},
        "continent": {"enum": ["Africa", "America", "Asia", "Europe", "Oceania"]},
        "is_island": {"type": "boolean"},
    },
    "required": ["name", "capital", "continent", "is_island"],
    "additionalProperties": False,
}


@dataclass(slots=True)
class Answer:
    """One answer, whether it came whole or in pieces."""

    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    finish: str | None = None
    pieces: int = 0


class Asker:
    """Asks a model for greedy answers, each of them whole and as a stream."""

    def __init__(self, client: openai.OpenAI, model: str) -> None:
        self._create = partial(
            client.chat.completions.create,
            model=model,
            temperature=0,
            max_completion_tokens=MAX_TOKENS,
        )

    def __call__(self, content: str, **more: Any) -> Answer:
        """The answer to a question."""
        return self.reply([{"role": "user", "content": content}], **more)

    def reply(self, messages: list[Any], **more: Any) -> Answer:
        """The answer to a conversation, the same both ways."""
        whole = read_whole(self._create(messages=messages, **more))
        parts = read_parts(self._create(messages=messages, stream=True, **more))
        said = (parts.content, parts.calls, parts.finish)
        assert said == (whole.content, whole.calls, whole.finish), (parts, whole)
        assert len({*whole.ids, *parts.ids}) == 2 * len(whole.calls), (parts, whole)
        return parts


def read_whole(answer: Any) -> Answer:
    (choice,) = answer.choices
    calls = choice.message.tool_calls or []
    return Answer(
        content=choice.message.content or "",
        calls=[(call.function.name, call.function.arguments) for call in calls],
        ids=[call.id for call in calls],
        finish=choice.finish_reason,
    )


def read_parts(parts: Iterator[Any]) -> Answer:
    """A call begins with its id, type and name; its arguments follow in pieces."""
    answer = Answer()
    for part in parts:
        for choice in part.choices:
            answer.content += choice.delta.content or ""
            answer.pieces += bool(choice.delta.content)
            answer.finish = choice.finish_reason or answer.finish
            for call in choice.delta.tool_calls or ():
                if call.id is not None:
                    assert call.index == len(answer.calls) and call.type == "function"
                    answer.calls.append((call.function.name, ""))
                    answer.ids.append(call.id)
                name, arguments = answer.calls[call.index]
                answer.pieces += bool(call.function.arguments)
                arguments += call.function.arguments or ""
                answer.calls[call.index] = (name, arguments)
    return answer


def only_call(answer: Answer) -> tuple[str, Any]:
    """The call that an answer is, and nothing else."""
    assert (answer.content, answer.finish) == ("", "tool_calls"), answer
    ((name, arguments),) = answer.calls
    return name, json.loads(arguments)


def check_auto(client: openai.OpenAI, ask: Asker, *, model: str) -> None:
    """The model calls a tool by itself, writes it as it must, and uses its result."""
    tools = [WEATHER]
    answer = ask(CALLING, tools=tools)
    assert only_call(answer) == ("get_weather", {"city": "Paris"}), answer
    assert answer.pieces > 1, "its arguments are no stream"
    check_free(client, model=model)
    function = {"name": "get_weather", "arguments": answer.calls[0][1]}
    call = {"id": answer.ids[0], "type": "function", "function": function}
    history = [
        {"role": "user", "content": CALLING},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {
            "role": "tool",
            "tool_call_id": answer.ids[0],
            "content": '{"weather": "sunny", "degrees": 21}',
        },
    ]
    told = ask.reply(history, tools=tools)
    print(f"{CALLING} {answer.calls[0][1]} {told.content}")
    assert (told.calls, told.finish) == ([], "stop"), told
    assert "sunny" in told.content and "tool" not in told.content, told
    plain = ask("What is the capital of France?", tools=tools)
    assert (plain.calls, plain.finish) == ([], "stop") and "Paris" in plain.content


def check_free(client: openai.OpenAI, *, model: str) -> None:
    """To the same prompt a free answer calls, too, without what the tool requires."""
    asked = {"model": model, "temperature": 0, "max_tokens": MAX_TOKENS}
    chat = client.chat.completions.create(
        **asked,
        messages=[{"role": "user", "content": CALLING}],
        tools=[WEATHER],
        extra_body={"return_token_ids": True},
    )
    prompt = chat.prompt_token_ids
    free = client.completions.create(**asked, prompt=prompt).choices[0].text
    written = re.match(r"<tool_call>\n(.*)\n</tool_call>", free)
    assert written is not None, free
    call = json.loads(written[1])
    assert call == {"name": "get_weather", "arguments": {}}, free


def check_choices(ask: Asker) -> None:
    """Text where no tool may be called, calls where one must be, any or a named one."""
    tools = [WEATHER, ADD]
    text = ask(CALLING, tools=tools, tool_choice="none")
    assert text.content and not text.calls and text.finish != "tool_calls", text
    question = "What is the weather in Paris?"
    free = ask(question, tools=tools)
    assert free.content and not free.calls, free
    several = ask(question, tools=tools, tool_choice="required")  # to the limit
    assert several.calls[0] == ("get_weather", '{"city": "Paris"}'), several
    one = partial(ask, tools=tools, parallel_tool_calls=False)
    answer = one(question, tool_choice="required")
    assert only_call(answer) == ("get_weather", {"city": "Paris"}), answer
    answer = one(ADDING, tool_choice="required")
    assert only_call(answer) == ("add", {"a": 3, "b": 4}), answer
    named = {"type": "function", "function": {"name": "add"}}
    name, arguments = only_call(one(CALLING, tool_choice=named))
    assert name == "add" and list(arguments) == ["a", "b"], arguments
    assert all(type(value) is int for value in arguments.values()), arguments


def check_schema(ask: Asker) -> None:
    """Fields are those of the schema, and what the model knows stands in them."""
    schema = {"name": "country", "strict": True, "schema": COUNTRY}
    shape = {"type": "json_schema", "json_schema": schema}
    for question, known in (
        ("Describe France.", ("France", "Paris", "Europe")),
        ("Describe Japan as JSON.", ("Japan", "Tokyo", "Asia")),
    ):
        answer = ask(question, response_format=shape)
        print(f"{question} {answer.content}")
        found = json.loads(answer.content)
        assert list(found) == list(COUNTRY["properties"]), answer
        assert tuple(found.values())[:3] == known, answer
        assert type(found["is_island"]) is bool, answer
        assert (answer.finish, answer.calls) == ("stop", []), answer
        assert answer.pieces > 2, "this is no stream"


def check_expressions(ask: Asker) -> None:
    """An expression or a choice is kept to, and the likeliest of it is meant."""

    def shaped(question: str, **shape: Any) -> Answer:
        answer = ask(question, extra_body={"structured_outputs": shape})
        assert answer.finish == "stop", answer
        return answer

    date = shaped(
        "When did the second world war end? Answer with a date, year first.",
        regex="[0-9]{4}-[0-9]{2}-[0-9]{2}",
    )
    assert re.fullmatch("1945-[0-9]{2}-[0-9]{2}", date.content), date
    picked = shaped("Is Paris in France?", choice=["no", "yes"])
    assert picked.content == "yes", picked


def check_shapes(client: openai.OpenAI, model: str) -> None:
    """All at the same time, where they share steps; raises what went wrong."""
    ask = Asker(client, model)
    checks = (
        partial(check_auto, client, ask, model=model),
        partial(check_choices, ask),
        partial(check_schema, ask),
        partial(check_expressions, ask),
    )
    with ThreadPoolExecutor(len(checks)) as pool:
        for done in [pool.submit(check) for check in checks]:
            done.result()
    check_schema(ask)  # alone, the same

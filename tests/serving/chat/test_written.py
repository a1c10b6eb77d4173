"""What the grammar of a door lets through is what its parser reads, token by token."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from mell_jax.engine.params import SamplingParams
from mell_jax.serving.chat.tools import tooling_of
from mell_jax.text.answers import (
    FORMATS,
    AnswerParser,
    Beginning,
    Reasoning,
    behind_thoughts,
    collect,
)
from mell_jax.text.tokenizer import load_tokenizer
from tests.serving.chat.parts import Parts, of_message, of_stream
from tests.serving.chat.speaking import (
    STARTED,
    THINKING,
    Speaker,
    speaking,
    write_tokenizer,
)
from tests.serving.chat.writing import Writer
from tests.serving.harness import run

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Rome </think>"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 99},
        "note": {"type": "string", "maxLength": 5},
        "is_far": {"type": "boolean"},
    },
    "required": ["city", "is_far"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "look", "parameters": {}}},
    {"type": "function", "function": {"name": "clock"}},
]
SHAPE: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "x",
        "schema": {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "look_up"}}
SEEDS = range(2)
THINK = Reasoning(open="<think>", close="</think>")


def check_call(name: str, arguments: str) -> None:
    said = json.loads(arguments)
    assert isinstance(said, dict)
    match name:
        case "look_up":
            assert {"city", "is_far"} <= said.keys() <= SCHEMA["properties"].keys()
            assert said["city"] in ("Oslo", "Rome </think>")
            assert 1 <= said.get("days", 1) <= 99
            assert type(said["is_far"]) is bool
        case "look":
            pass
        case "clock":
            assert said == {}
        case other:
            raise AssertionError(f"{other} is none of the tools")


async def ask(s: Speaker, **body: Any) -> list[Parts]:
    """Answers to several seeds, whole and streamed."""
    found = []
    for seed in SEEDS:
        asked = {"tools": TOOLS, "seed": seed, "max_tokens": 4000, **body}
        (choice,) = (await s.chat(**asked))["choices"]
        parts = of_message(choice["message"])
        reason = choice["finish_reason"]
        assert reason == ("tool_calls" if parts.calls else "stop")
        assert of_stream(await s.stream(**asked)) == (parts, reason)
        for name, arguments in parts.calls:
            check_call(name, arguments)
        found.append(parts)
    return found


@pytest.mark.parametrize(
    ("form", "is_special", "template"),
    [
        ("hermes", False, THINKING),
        ("mistral", True, STARTED),
        ("pythonic", True, THINKING),
    ],
)
def test_answers_that_keep_to_the_grammar_are_read_whole(
    tmp_path: Path, form: str, is_special: bool, template: str
) -> None:
    """No answer is broken: what must be a call is one, what has a shape has it."""
    marks = {"<think>", "</think>", *FORMATS[form].spellings}
    special = sorted(m for m in marks if m[0] in "<[") if is_special else ()
    thought = ("<think>\n" if template == THINKING else "") + "Hm {[<.\n</think>\n\n"

    async def scenario() -> None:
        async with speaking(
            tmp_path,
            says=[thought],
            special=special,
            template=template,
            form=form,
            follows=True,
        ) as s:
            for parts in await ask(s, tool_choice="required"):
                assert (parts.thought, parts.text) == ("Hm {[<.", "")
                assert parts.calls
            for parts in await ask(
                s, tool_choice="required", parallel_tool_calls=False
            ):
                assert len(parts.calls) == 1
            for parts in await ask(s, tool_choice=NAMED):
                assert {name for name, _ in parts.calls} == {"look_up"}
            for parts in await ask(s, response_format=SHAPE):
                assert parts.thought == "Hm {[<."
                if parts.calls:
                    assert parts.text == ""
                else:
                    assert json.loads(parts.text).keys() == {"n"}
            for parts in await ask(s, tool_choice="none", response_format=SHAPE):
                assert json.loads(parts.text).keys() == {"n"}
            layout = FORMATS[form].layout
            begun = f"{layout.open}{layout.before}look_up{layout.after}"
            s.engine.say(thought + begun)
            for parts in await ask(s, parallel_tool_calls=False):
                assert parts.calls[0][0] == "look_up"

    run(scenario)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("is_special", [False, True])
def test_a_call_that_has_begun_is_one_behind_any_thought(
    tmp_path: Path, form: str, is_special: bool
) -> None:
    """Also a call that only the whole answer can be: breaks before it are no text."""
    marks = ("<think>", "</think>", *sorted(FORMATS[form].spellings))
    special = [mark for mark in marks if mark[0] in "<["] if is_special else []
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, special=special))
    ids, writer, layout = (
        tokenizer.spellings.ids,
        Writer(tokenizer),
        FORMATS[form].layout,
    )
    box = tooling_of(TOOLS, choice="auto", is_parallel=False).box
    calls = FORMATS[form].grammar(box, special_id=ids.get)
    assert calls is not None
    begun = f"{layout.open}{layout.before}look_up{layout.after}"
    thoughts = {
        Beginning.BEFORE: "<think>\nHm</think>",
        Beginning.INSIDE: "Hm</think>",
        Beginning.AFTER: "",
    }
    for (beginning, thought), gap in itertools.product(
        thoughts.items(), ("", "\n", "\n\n")
    ):
        grammar = behind_thoughts(calls, THINK, beginning, special_id=ids.get)
        wish = tokenizer.encode(thought + gap + begun, add_special_tokens=False)
        made = writer.write(SamplingParams(grammar=grammar, seed=1), wish=wish)
        text = tokenizer.decode(made[:-1], skip_special_tokens=False)
        parser = AnswerParser(
            reasoning=THINK, beginning=beginning, form=FORMATS[form], tools=box
        )
        answer = collect([*parser.push(text), *parser.finish()])
        (call,) = answer.calls
        assert call.name == "look_up"
        check_call(call.name, call.arguments)
        assert (answer.thought, answer.text.strip()) == ("Hm" if thought else "", "")

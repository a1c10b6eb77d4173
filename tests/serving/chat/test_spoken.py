"""Answers with tools and thoughts over HTTP, of a model that says what it is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from mell_jax.grammar import Grammar
from mell_jax.text.answers import FORMATS
from tests.serving.anthropic.message_rules import check_stream as check_message
from tests.serving.chat.parts import (
    Parts,
    of_blocks,
    of_message,
    of_response,
    of_stream,
)
from tests.serving.chat.speaking import HELLO, STARTED, THINKING, Speaker, speaking
from tests.serving.harness import run
from tests.serving.openai.response_rules import check_stream as check_response
from tests.serving.openai.test_responses import events_of
from tests.text.answers.cases import CLOCK, WEATHER, write_calls

TOOLS = [
    {
        "type": "function",
        "function": {"name": tool.name, "parameters": dict(tool.parameters)},
    }
    for tool in (WEATHER, CLOCK)
]
CALLS: Any = [("get_weather", {"city": "Oslo", "days": 3}), ("clock", {})]
WANTED = (("get_weather", '{"city": "Oslo", "days": 3}'), ("clock", "{}"))
HERMES = write_calls("hermes", CALLS)
LEADS = ("llama3_json", "pythonic")  # nothing stands before their calls


def plain_tools() -> list[dict[str, Any]]:
    """As /v1/responses has them."""
    return [{"type": "function", **tool["function"]} for tool in TOOLS]


def anthropics_tools() -> list[dict[str, Any]]:
    return [
        {"name": tool.name, "input_schema": {"type": "object", **tool.parameters}}
        for tool in (WEATHER, CLOCK)
    ]


async def both(s: Speaker, **body: Any) -> tuple[Parts, str]:
    """The parts of an answer, which are the same whole and streamed."""
    (choice,) = (await s.chat(**body))["choices"]
    whole = of_message(choice["message"]), choice["finish_reason"]
    assert of_stream(await s.stream(**body)) == whole
    return whole


async def everywhere(s: Speaker, **body: Any) -> Parts:
    """The parts of an answer, which every protocol tells alike."""
    parts, _ = await both(s, tools=TOOLS, **body)
    asked = {"input": "hello", "tools": plain_tools(), **body}
    response = await s.post("/v1/responses", asked)
    assert of_response(response) == parts
    answer = await s.client.post("/v1/responses", json={**asked, "stream": True})
    assert of_response(check_response(events_of(answer.text))) == parts
    asked = {
        "messages": HELLO,
        "model": "letters",
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": anthropics_tools(),
        **body,
    }
    message = await s.post("/v1/messages", asked)
    assert of_blocks(message) == parts
    answer = await s.client.post("/v1/messages", json={**asked, "stream": True})
    assert of_blocks(check_message(events_of(answer.text))) == parts
    return parts


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("is_special", [False, True])
def test_every_door_tells_of_the_same_calls(
    tmp_path: Path, form: str, is_special: bool
) -> None:
    calls = write_calls(form, CALLS)
    text = "" if form in LEADS else "I look."
    marks = ("<think>", "</think>", *sorted(FORMATS[form].spellings))
    special = [mark for mark in marks if mark.startswith(("<", "["))]

    async def scenario() -> None:
        async with speaking(
            tmp_path,
            says=[f"<think>\nLet me see.\n</think>\n\n{text}{calls}"],
            special=special if is_special else (),
            template=THINKING,
            form=form,
        ) as s:
            wanted = Parts(thought="Let me see.", text=text, calls=WANTED)
            assert await everywhere(s) == wanted
            # Where nobody may call, a call is text.
            parts, reason = await both(s)
            assert (parts.calls, reason) == ((), "stop")
            assert parts.thought == "Let me see."

    run(scenario)


def test_a_call_in_the_middle_of_text(tmp_path: Path) -> None:
    async def scenario() -> None:
        says = [f"I look.\n{HERMES}\nDone?"]
        async with speaking(tmp_path, says=says) as s:
            parts = await everywhere(s)
            assert parts == Parts(text="I look.\nDone?", calls=WANTED)
            chunks = await s.stream(tools=TOOLS)
            assert of_stream(chunks)[1] == "tool_calls"
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
            kinds = [key for delta in deltas for key in delta if key != "role"]
            order = [a for a, b in zip(kinds, ["", *kinds], strict=False) if a != b]
            assert order == ["content", "tool_calls", "content"]

    run(scenario)


def test_the_grammar_is_what_the_choice_says(tmp_path: Path) -> None:
    """What reaches the engine: nothing, calls in free text, or nothing but calls."""
    named = {"type": "function", "function": {"name": "clock"}}

    async def scenario() -> None:
        async with speaking(tmp_path, says=[HERMES]) as s:

            async def grammar(**body: Any) -> Grammar | None:
                await both(s, **body)
                return s.engine.submits[-1].params.grammar

            assert await grammar() is None
            assert "get_weather" not in s.last_prompt()
            assert await grammar(tools=TOOLS, tool_choice="none") is None
            assert "get_weather" not in s.last_prompt()
            assert await grammar(tools=[]) is None
            auto = await grammar(tools=TOOLS)
            assert "get_weather" in s.last_prompt()
            required = await grammar(tools=TOOLS, tool_choice="required")
            one = await grammar(
                tools=TOOLS, tool_choice="required", parallel_tool_calls=False
            )
            clock = await grammar(tools=TOOLS, tool_choice=named)
            assert None not in (auto, required, one, clock)
            assert len({auto, required, one, clock}) == 4
            assert clock is not None and "get_weather" not in clock.source
            formatted = {"response_format": {"type": "json_object"}}
            assert await grammar(**formatted) == Grammar.json_object()
            either = await grammar(tools=TOOLS, **formatted)
            assert required is not None
            assert either == required.or_else(Grammar.json_object())
            assert await grammar(tools=TOOLS, tool_choice="required", **formatted) == (
                required
            )
            assert await grammar(tools=TOOLS, tool_choice="none", **formatted) == (
                Grammar.json_object()
            )

    run(scenario)


def test_a_named_tool_is_the_only_one(tmp_path: Path) -> None:
    """The model of this test does not keep to grammars: another call is text."""
    named = {"type": "function", "function": {"name": "clock"}}

    async def scenario() -> None:
        async with speaking(tmp_path, says=[HERMES]) as s:
            parts, reason = await both(s, tools=TOOLS, tool_choice=named)
            assert (parts.calls, reason) == ((("clock", "{}"),), "tool_calls")
            assert "get_weather" in parts.text

    run(scenario)


def test_an_answer_that_is_cut_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with speaking(tmp_path, says=[HERMES]) as s:
            at = HERMES.index("Oslo") + 2
            parts, reason = await both(s, tools=TOOLS, max_tokens=at)
            assert parts == Parts(calls=(("get_weather", '{"city": "Os'),))
            assert reason == "length"
            at = HERMES.index("get_")
            parts, reason = await both(s, tools=TOOLS, max_tokens=at)
            assert (parts.calls, reason) == ((), "length")
            assert parts.text == HERMES[:at]

    run(scenario)


def test_choices_have_calls_of_their_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = write_calls("hermes", CALLS[:1])
        says = [f"a{first}", "nothing", "<tool_call>{"]
        async with speaking(tmp_path, says=says) as s:
            answer = await s.chat(tools=TOOLS, n=3, logprobs=True, top_logprobs=1)
            wholes = [of_message(each["message"]) for each in answer["choices"]]
            assert wholes == [
                Parts(text="a", calls=WANTED[:1]),
                Parts(text="nothing"),
                Parts(text="<tool_call>{"),
            ]
            reasons = [each["finish_reason"] for each in answer["choices"]]
            assert reasons == ["tool_calls", "stop", "stop"]
            s.engine.say(*says)
            chunks = await s.stream(tools=TOOLS, n=3)
            for index, whole in enumerate(wholes):
                assert of_stream(chunks, index=index) == (whole, reasons[index])

    run(scenario)


def test_probabilities_and_ids_stand_beside_calls(tmp_path: Path) -> None:
    async def scenario() -> None:
        special = ["<tool_call>", "</tool_call>"]
        says = [f"I look. {HERMES}"]
        asks = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True}
        async with speaking(tmp_path, says=says, special=special) as s:
            ids = s.tokenizer.encode(says[0])
            ids = [*ids, 0]
            (choice,) = (await s.chat(tools=TOOLS, **asks))["choices"]
            assert choice["token_ids"] == ids
            words = choice["logprobs"]["content"]
            assert len(words) == len(ids)
            assert words[8]["token"] == "<tool_call>"
            chunks = await s.stream(tools=TOOLS, **asks)
            choices = [chunk["choices"][0] for chunk in chunks]
            told = [i for each in choices for i in each.get("token_ids", ())]
            assert told == ids
            streamed = [
                word
                for each in choices
                for word in (each["logprobs"] or {"content": []})["content"]
            ]
            assert streamed == words
            assert [c for c in chunks if "prompt_token_ids" in c] == chunks[:1]

    run(scenario)


def test_a_stop_string_is_found_before_anything_is_parsed(tmp_path: Path) -> None:
    async def scenario() -> None:
        says = [f"<think>so</think>Well. {HERMES}"]
        async with speaking(tmp_path, says=says, template=THINKING) as s:
            parts, reason = await both(s, tools=TOOLS, stop=["l. "])
            assert (parts, reason) == (Parts(thought="so", text="Wel"), "stop")
            parts, _ = await both(s, tools=TOOLS, stop=["o</th"])
            assert parts == Parts(thought="s")
            parts, _ = await both(
                s, tools=TOOLS, stop=["</tool_call>"], include_stop_str_in_output=True
            )
            assert parts == Parts(thought="so", text="Well.", calls=WANTED[:1])

    run(scenario)


def test_what_is_told_and_taken_back(tmp_path: Path) -> None:
    """A thought that had no beginning, and a call that breaks off."""

    async def scenario() -> None:
        broken = '<tool_call>\n{"name": "clock", "arguments": {}, "x": 1}</tool_call>'
        says = ["so\n</think>\n\n2", f"a{broken}b"]
        async with speaking(tmp_path, says=says[:1], template=THINKING) as s:
            (choice,) = (await s.chat())["choices"]
            assert of_message(choice["message"]) == Parts(thought="so", text="2")
            parts, reason = of_stream(await s.stream())
            assert (parts, reason) == (Parts(text="so2"), "stop")
            s.engine.say(says[1])
            (choice,) = (await s.chat(tools=TOOLS))["choices"]
            assert of_message(choice["message"]) == Parts(text=f"a{broken}b")
            assert choice["finish_reason"] == "stop"
            parts, reason = of_stream(await s.stream(tools=TOOLS))
            assert (parts.text, reason) == (f"a{broken}b", "stop")
            assert parts.calls == (("clock", "{}"),)  # it had been told of

    run(scenario)


@pytest.mark.parametrize("is_special", [False, True])
def test_thoughts_are_free_and_what_follows_is_bound(
    tmp_path: Path, is_special: bool
) -> None:
    special = ("<think>", "</think>") if is_special else ()
    shape = {"response_format": {"type": "json_object"}}
    says = ['<think>\nI {"a": 2}.\n</think>\n\n{"a": 1}']

    async def scenario() -> None:
        async with speaking(
            tmp_path, says=says, special=special, template=THINKING
        ) as s:
            parts, reason = await both(s, **shape)
            assert parts == Parts(thought='I {"a": 2}.', text='{"a": 1}')
            assert reason == "stop"
            grammar = s.engine.submits[-1].params.grammar
            assert grammar not in (None, Grammar.json_object())
            assert ("opening" in grammar.lark) and ("<think>" in grammar.lark) is not (
                is_special
            )
            kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
            await both(s, **shape, **kwargs)
            assert s.engine.submits[-1].params.grammar == Grammar.json_object()
            s.engine.say('{"a": "</think>"}')
            parts, _ = await both(s, **shape, **kwargs)
            assert parts == Parts(text='{"a": "</think>"}')

    run(scenario)


def test_a_template_may_begin_the_thought(tmp_path: Path) -> None:
    async def scenario() -> None:
        says = [f"so</think>{HERMES}"]
        async with speaking(tmp_path, says=says, template=STARTED) as s:
            assert await everywhere(s) == Parts(thought="so", calls=WANTED)
            parts, reason = await both(s, tools=TOOLS, max_tokens=2)
            assert (parts, reason) == (Parts(thought="so"), "length")

    run(scenario)


@pytest.mark.parametrize(
    ("said", "goes_on", "parts"),
    [
        ("<think>so", " it</think>2", Parts(thought=" it", text="2")),
        ("<think>so</think>It", " is</think>", Parts(text=" is</think>")),
        ("It", " is", Parts(text=" is")),
    ],
)
def test_the_last_message_is_continued(
    tmp_path: Path, said: str, goes_on: str, parts: Parts
) -> None:
    async def scenario() -> None:
        async with speaking(tmp_path, says=[goes_on], template=THINKING) as s:
            messages = [*HELLO, {"role": "assistant", "content": said}]
            found, _ = await both(
                s,
                messages=messages,
                continue_final_message=True,
                add_generation_prompt=False,
            )
            assert found == parts
            assert s.last_prompt().endswith(said)

    run(scenario)


def test_a_conversation_goes_on_with_results(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with speaking(tmp_path, says=[HERMES]) as s:
            (choice,) = (await s.chat(tools=TOOLS))["choices"]
            message = choice["message"]
            results = [
                {"role": "tool", "tool_call_id": call["id"], "content": f"r{number}"}
                for number, call in enumerate(message["tool_calls"])
            ]
            s.engine.say("Rain at 9.")
            messages = [*HELLO, message, *results]
            parts, reason = await both(s, tools=TOOLS, messages=messages)
            assert (parts, reason) == (Parts(text="Rain at 9."), "stop")
            prompt = s.last_prompt()
            assert '"arguments": {"city": "Oslo", "days": 3}' in prompt
            assert prompt.endswith("[tool]r0[tool]r1[assistant]")
            json.dumps(messages)

    run(scenario)

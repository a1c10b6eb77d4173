"""Turns of an assistant become messages, one for each turn."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mell_jax.serving.chat.turns import Turns, UnknownCallError


def test_a_thought_behind_an_answer_begins_a_turn() -> None:
    turns = Turns()
    turns.think("a")
    turns.think("b")
    turns.answer("c")
    turns.think("d")
    turns.call(id="1", name="f", arguments="{}")
    turns.answer("e")
    turns.answer("f")
    first, second, *others = turns.messages()
    assert first == {"role": "assistant", "content": "c", "reasoning_content": "a\nb"}
    assert (second["reasoning_content"], second["content"]) == ("d", None)
    function = {"name": "f", "arguments": "{}"}
    call = {"id": "1", "type": "function", "function": function}
    assert second["tool_calls"] == [call]
    assert others == [
        {"role": "assistant", "content": "e"},
        {"role": "assistant", "content": "f"},
    ]


def test_a_result_is_of_a_call_before_it() -> None:
    turns = Turns()
    with pytest.raises(UnknownCallError):
        turns.result("a", id="1")
    turns.call(id="1", name="f", arguments="{}")
    turns.result("a", id="1")
    assert [message["role"] for message in turns.messages()] == ["assistant", "tool"]


@given(words=st.lists(st.sampled_from(["think", "answer", "call", "say", "result"])))
def test_nothing_is_lost_and_the_order_stays(words: list[str]) -> None:
    turns, done = Turns(), []
    called: list[str] = []
    for number, word in enumerate(words):
        text = f"{word}{number}"
        match word:
            case "think":
                turns.think(text)
            case "answer":
                turns.answer(text)
            case "call":
                turns.call(id=text, name="f", arguments=text)
                called.append(text)
            case "say":
                turns.say(text, role="user")
            case "result" if called:
                turns.result(text, id=called[-1])
            case _:
                continue
        done.append(text)
    found: list[str] = []
    for message in turns.messages():
        assert message["role"] in ("assistant", "user", "tool")
        if "reasoning_content" in message:
            found += message["reasoning_content"].split("\n")
        calls = [each["id"] for each in message.get("tool_calls", ())]
        said = [message["content"]] if message["content"] is not None else []
        found += [*said, *calls]
    assert found == done

"""What a conversation may be, and what of it a user has written."""

from typing import Any

import pytest

from mell_jax.text.conversation import (
    MAX_KWARGS,
    MAX_KWARGS_CHARS,
    Conversation,
    ConversationError,
)
from mell_jax.text.json_values import MAX_DEPTH, collect_strings, map_strings

HELLO = {"role": "user", "content": "hi"}


def nested(depth: int) -> Any:
    value: Any = "x"
    for i in range(depth):
        value = [value] if i % 2 else {"k": value}
    return value


def refused(part: str, **fields: Any) -> str:
    with pytest.raises(ConversationError) as caught:
        Conversation(**{"messages": [HELLO], **fields}).strings()
    assert caught.value.part == part
    assert str(caught.value) == f"{part} {caught.value.rule}"
    return caught.value.rule


def test_every_string_counts_but_the_programs_own() -> None:
    said = Conversation(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}], "name": "b"},
            {"role": "tool", "content": "c", "n": [None, True, 1, 2.5]},
        ],
        tools=[{"d": {"e": ["f"]}}],
        documents=[{"g": "h"}],
        kwargs={"level": {"i": "j"}, "is_on": False},
    )
    strings = said.strings()
    assert [text for text in strings if len(text) == 1] == list("abcdefghij")
    assert "user" not in strings and "content" not in strings and "level" not in strings


def test_strings_are_changed_wherever_they_stand_and_nothing_else_is() -> None:
    value = {"a": ["b", 1, None, {"c": True, "d": 1.5}], "e": {}}
    changed = map_strings(value, str.upper)
    assert changed == {"A": ["B", 1, None, {"C": True, "D": 1.5}], "E": {}}
    assert value["a"][0] == "b"
    assert collect_strings(value) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("part", ["tools", "documents", "kwargs", "messages"])
def test_what_is_nested_too_deeply_is_refused_by_part(part: str) -> None:
    def fields(depth: int) -> dict[str, Any]:
        value = nested(depth)
        whole: dict[str, Any] = {
            "kwargs": {"level": value},
            "messages": [{"role": "user", "content": "", "deep": value}],
        }
        return {part: whole.get(part, [value])}

    Conversation(**{"messages": [HELLO], **fields(MAX_DEPTH - 1)}).strings()
    assert "more than 64 deep" in refused(part, **fields(MAX_DEPTH))


def test_a_text_ends_behind_the_last_message_or_inside_it() -> None:
    both = refused("continues", continues=True, asks_for_answer=True)
    assert "choose one" in both
    inside = {"continues": True, "asks_for_answer": False}
    Conversation(messages=[HELLO], **inside)
    parts = [{"type": "image"}, {"type": "text", "text": "a"}]
    Conversation(messages=[{"role": "user", "content": parts}], **inside)
    for content in (None, [], [{"type": "image"}]):
        last = {"role": "assistant", "content": content}
        assert "that has a text" in refused("continues", messages=[last], **inside)
    assert "that has a text" in refused("continues", messages=[], **inside)


@pytest.mark.parametrize(
    "name",
    [
        *("messages", "tools", "documents", "add_generation_prompt", "bos_token"),
        *("eos_token", "unk_token", "raise_exception", "namespace", "range", "self"),
        *("chat_template", "tokenize", "continue_final_message", "true"),
    ],
)
def test_the_engines_own_names_are_no_clients(name: str) -> None:
    rule = refused("kwargs", kwargs={"ok": 1, name: 1})
    assert rule == f"may not have '{name}', which the server says itself; leave it out"


@pytest.mark.parametrize("name", ["", "_x", "1x", "a-b", "a.b", "x" * 65, "a\n", "ä"])
def test_names_are_names(name: str) -> None:
    assert "must have names of 1 to 64" in refused("kwargs", kwargs={name: 1})


def test_variables_are_bounded() -> None:
    names = [f"x{i}" for i in range(MAX_KWARGS + 1)]
    Conversation(messages=[HELLO], kwargs=dict.fromkeys(names[1:], 1))
    assert "at most 64 names, got 65" in refused("kwargs", kwargs=dict.fromkeys(names))
    room = MAX_KWARGS_CHARS - len('{"x": ""}')
    Conversation(messages=[HELLO], kwargs={"x": "a" * room})
    assert "got 65537" in refused("kwargs", kwargs={"x": "a" * (room + 1)})
    assert "nested too deeply" in refused("kwargs", kwargs={"x": nested(100_000)})

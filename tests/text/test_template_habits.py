"""What templates read, found by trying."""

from typing import Any

import pytest

from mell_jax.text.chat_template import ChatTemplate, Variables
from mell_jax.text.template_habits import CallStyle, TemplateHabits
from mell_jax.text.template_messages import for_template
from tests.text.families import FAMILIES

OBJECT = CallStyle(empty={})
STYLES = {
    "deepseek": CallStyle(empty={"content": None}, has_text_arguments=True),
    **dict.fromkeys(("qwen2", "qwen3", "llama3", "mistral", "glm", "hermes"), OBJECT),
}
LOOP = "{% for m in messages %}BODY{% endfor %}"
ASKED = "{% for c in m.tool_calls or [] %}{{ c.function.name }}ARGUMENTS{% endfor %}"


def habits(source: str) -> TemplateHabits:
    return TemplateHabits(ChatTemplate(source))


def looping(body: str) -> str:
    return LOOP.replace("BODY", body)


@pytest.mark.parametrize("family", FAMILIES)
def test_how_families_want_calls(family: str) -> None:
    assert habits(FAMILIES[family]).call_style() == STYLES[family]


@pytest.mark.parametrize(
    ("body", "style"),
    [
        (ASKED.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}"), OBJECT),
        (
            ASKED.replace("ARGUMENTS", "{{ '' + c.function.arguments }}"),
            CallStyle(empty={}, has_text_arguments=True),
        ),
        (
            "{{ m.content + '' }}"
            + ASKED.replace("ARGUMENTS", "{{ c.function.arguments.k }}"),
            # Undefined cannot be added to, nor can None.
            CallStyle(empty={"content": ""}),
        ),
        ("no calls at all", OBJECT),
        ("{{ raise_exception('never') }}", OBJECT),
    ],
)
def test_how_a_template_wants_calls(body: str, style: CallStyle) -> None:
    assert habits(looping(body)).call_style() == style


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_parts_are_read_where_a_template_loops_over_them(role: str) -> None:
    source = FAMILIES["glm"]
    assert habits(source).reads_parts(role)
    for family in ("qwen2", "qwen3", "llama3", "mistral", "deepseek", "hermes"):
        assert not habits(FAMILIES[family]).reads_parts(role), family
    only = looping(
        f"{{% if m.role == '{role}' %}}{{% for p in m.content %}}{{{{ p.text }}}}"
        "{% endfor %}{% else %}{{ m.content }}{% endif %}"
    )
    others = {"system", "user", "assistant", "tool"} - {role}
    assert habits(only).reads_parts(role)
    assert not any(habits(only).reads_parts(other) for other in others)
    first = looping("{{ m.content if m.content is string else m.content[0].text }}")
    assert not habits(first).reads_parts(role)


def test_what_was_found_is_kept() -> None:
    class Counting:
        count = 0

        def render(self, variables: Variables, *, max_chars: int) -> str:
            self.count += 1
            return ""

    template = Counting()
    found = TemplateHabits(template)
    for _ in range(3):
        found.call_style()
        found.reads_parts("user")
    assert template.count == 6 + 1


def shaped(source: str, **message: Any) -> dict[str, Any]:
    return for_template(message, habits=habits(source))


def calls_of(arguments: Any) -> list[dict[str, Any]]:
    return [{"id": "1", "type": "function", "function": {"arguments": arguments}}]


@pytest.mark.parametrize(
    ("arguments", "as_object", "as_text"),
    [
        ('{"a": 1.50}', {"a": 1.5}, '{"a": 1.50}'),
        ({"a": "ä"}, {"a": "ä"}, '{"a": "ä"}'),
        ("", {}, ""),
        (" \n", {}, " \n"),
        ("{broken", "{broken", "{broken"),
        ("[1]", "[1]", "[1]"),
        ('"x"', '"x"', '"x"'),
        ('{"a": NaN}', '{"a": NaN}', '{"a": NaN}'),
        ('{"a": "\\ud800"}', '{"a": "\\ud800"}', '{"a": "\\ud800"}'),
        ("[" * 100_000, "[" * 100_000, "[" * 100_000),
        (
            '{"a": 1180591620717411303424}',
            {"a": 2**70},
            '{"a": 1180591620717411303424}',
        ),
    ],
)
def test_arguments_are_objects_or_texts(
    arguments: Any, as_object: Any, as_text: str
) -> None:
    for family, want in (("qwen2", as_object), ("deepseek", as_text)):
        message = shaped(
            FAMILIES[family], role="assistant", tool_calls=calls_of(arguments)
        )
        assert message["tool_calls"] == calls_of(want)
    bare = [{"function": {"name": "f"}}, {"id": "1"}, "odd"]
    message = shaped(FAMILIES["qwen2"], role="assistant", tool_calls=bare)
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}
    assert message["tool_calls"][1:] == bare[1:]


def test_what_is_not_said_is_not_there() -> None:
    qwen, deepseek = FAMILIES["qwen2"], FAMILIES["deepseek"]
    nothing = {"content": None, "name": None, "reasoning": None, "tool_calls": []}
    said = {"role": "assistant", "content": ""}
    assert shaped(qwen, role="assistant", **nothing) == said
    called = {"role": "assistant", "content": None, "tool_calls": calls_of("{}")}
    assert "content" not in shaped(qwen, **called)
    assert shaped(deepseek, **called)["content"] is None
    assert shaped(deepseek, **{**called, "content": ""})["content"] is None
    assert shaped(deepseek, **{**called, "content": "x"})["content"] == "x"
    assert shaped(qwen, **{**called, "content": ""})["content"] == ""


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_has_every_name(name: str) -> None:
    message = shaped("", role="assistant", content="x", **{name: "hm"})
    assert message["reasoning_content"] == message["thinking"] == "hm"
    both = shaped("", role="assistant", reasoning="b", reasoning_content="a")
    assert (both["reasoning_content"], both["reasoning"]) == ("a", "b")

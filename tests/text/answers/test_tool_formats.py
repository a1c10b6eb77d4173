"""Every format: calls come back, whatever the cuts; all else is text."""

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mell_jax.text.answers import (
    FORMATS,
    Answer,
    Call,
    CallArgued,
    CallBegan,
    CallDropped,
    Choice,
    Said,
    Tool,
    Toolbox,
    ToolChoice,
    ToolParser,
    collect,
)
from tests.text.answers.cases import (
    CALLS,
    EXAMPLE,
    TEXTS,
    TOOLBOX,
    answer,
    cut,
    merged,
    near_calls,
    parse,
    write_calls,
)

ALL = sorted(FORMATS)
ENDS = {"qwen3_coder": ("</parameter>",), "glm45": ("</arg_value>",)}
"""What ends an argument and cannot be in it: these formats have no escapes."""
WITH_LEADS = {"llama3_json", "pythonic"}
BY_JSON = sorted(set(ALL) - {"qwen3_coder", "glm45", "pythonic"})


def calls_of(found: Answer) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in found.calls]


@pytest.mark.parametrize("form", ALL)
@given(calls=CALLS)
def test_calls_come_back(form: str, calls: list[tuple[str, dict[str, object]]]) -> None:
    assume(not any(end in json.dumps(calls) for end in ENDS.get(form, ())))
    found = answer(form, write_calls(form, calls))
    assert calls_of(found) == calls
    assert found.text == ""


@pytest.mark.parametrize("form", ALL)
@settings(max_examples=80)
@given(data=st.data())
def test_cuts_change_nothing(form: str, data: st.DataObject) -> None:
    text = data.draw(near_calls(form))
    whole = merged(parse(form, [text]))
    assert merged(parse(form, text)) == whole  # letter by letter
    places = data.draw(st.lists(st.integers(0, 500), max_size=8))
    assert merged(parse(form, cut(text, places))) == whole


@pytest.mark.parametrize("form", ALL)
@settings(max_examples=80)
@given(data=st.data())
def test_nothing_is_lost(form: str, data: st.DataObject) -> None:
    text = data.draw(near_calls(form))
    events = parse(form, text)
    found = collect(events)
    if not found.calls:
        assert found.text == text
    for call in found.calls[:-1]:
        json.loads(call.arguments)
    begun = [event.index for event in events if isinstance(event, CallBegan)]
    assert begun == list(range(len(begun)))


@pytest.mark.parametrize("form", sorted(set(ALL) - WITH_LEADS))
@given(before=TEXTS, after=TEXTS)
def test_text_around_calls_is_kept(form: str, before: str, after: str) -> None:
    before, after = before.replace("<", ""), after.replace("<", "")
    before, after = before.replace("[", ""), after.replace("[", "")
    found = answer(form, before + write_calls(form, EXAMPLE) + after)
    assert calls_of(found) == EXAMPLE
    assert found.text == before.rstrip() + (after if after.strip() else "")


@pytest.mark.parametrize("form", ALL)
def test_a_name_and_each_letter_of_a_string_are_told_at_once(form: str) -> None:
    parser = ToolParser(FORMATS[form], TOOLBOX)
    text = write_calls(form, [("get_weather", {"city": "Reykjavik"})])
    head, tail = text.split("kjavik")
    told = list(parser.push(head))
    assert told[0] == CallBegan(0, "get_weather")
    assert merged(told)[1:] == [CallArgued(0, '{"city": "Rey')]
    for letter in "kjavik":
        assert parser.push(letter) == (CallArgued(0, letter),)
    rest = [*parser.push(tail), *parser.finish()]
    assert merged(rest) == [CallArgued(0, '"}')]


def test_a_call_is_whole_without_its_last_marker() -> None:
    found = answer("hermes", f"<tool_call>\n{{{NAMED}}}\n")
    assert found == Answer(
        thought="", text="", calls=(Call(name="clock", arguments="{}"),)
    )


@pytest.mark.parametrize("form", ALL)
def test_an_answer_cut_off_keeps_what_was_told(form: str) -> None:
    text = write_calls(form, [("get_weather", {"city": "Reykjavik"})])
    found = answer(form, text.split("kjavik")[0])
    assert found.calls == (Call(name="get_weather", arguments='{"city": "Rey'),)
    assert found.text == ""


@pytest.mark.parametrize("form", ALL)
def test_a_call_of_no_tool_is_text(form: str) -> None:
    text = write_calls(form, [("launch", {"city": "x"})])
    assert merged(parse(form, text)) == [Said(text)]


@pytest.mark.parametrize("form", ALL)
def test_only_the_chosen_tool_is_called(form: str) -> None:
    text = write_calls(form, [("get_weather", {"city": "x"})])
    chosen = Toolbox(tools=TOOLBOX.tools, choice=ToolChoice.named("clock"))
    none = Toolbox(tools=TOOLBOX.tools, choice=ToolChoice(kind=Choice.NONE))
    for tools in (chosen, none):
        assert answer(form, text, tools=tools).text == text


@pytest.mark.parametrize("form", BY_JSON)
def test_json_that_breaks_gives_its_text_back(form: str) -> None:
    text = write_calls(form, [("get_weather", {"city": "Rome"})]) + " end"
    broken = text.replace('"Rome"', '"Rome", ]')
    events = merged(parse(form, broken))
    assert [type(event) for event in events] == [
        CallBegan,
        CallArgued,
        CallDropped,
        Said,
    ]
    assert collect(events) == Answer(thought="", text=broken, calls=())


@pytest.mark.parametrize("form", ALL)
def test_a_call_is_found_behind_one_that_breaks(form: str) -> None:
    if form in WITH_LEADS:
        pytest.skip("its calls begin the answer")
    good = write_calls(form, [("clock", {})])
    found = answer(form, FORMATS[form].markers[0] + " ... " + good)
    assert calls_of(found) == [("clock", {})]
    assert found.text == FORMATS[form].markers[0] + " ..."


@pytest.mark.parametrize("form", BY_JSON)
def test_depth_is_bounded(form: str) -> None:
    text = write_calls(form, [("get_weather", {"city": 7})]).replace("7", "[" * 9999)
    assert answer(form, text).text == text


NAMED = '"name":"clock"'
CODER_A = "<parameter=a>1</parameter>"
ODD = [
    ("hermes", '{"arguments":{"a":1},"name":"clock"}', '{"a":1}'),
    ("hermes", f"{{{NAMED}}}", "{}"),
    ("hermes", f"{{{NAMED},{NAMED}}}", None),
    ("hermes", f'{{{NAMED},"parameters":{{}},"arguments":{{}}}}', None),
    ("hermes", f'{{{NAMED},"arguments":"{{}}"}}', None),
    ("hermes", f'{{{NAMED},"arguments":{{"a":NaN}}}}', None),
    ("hermes", f'{{{NAMED},"arguments":{{"a":01}}}}', None),
    ("hermes", f'{{{NAMED},"arguments":{{"a":1,}}}}', None),
    ("hermes", f'{{{NAMED},"arguments":{{"a":"\n"}}}}', None),
    ("hermes", f'{{{NAMED},"arguments":{{"a":"\\x"}}}}', None),
    ("hermes", f'{{{NAMED},"arguments":{{"a":"\\u12x4"}}}}', None),
    ("hermes", f'{{{NAMED},"arguments":{{"a":\'b\'}}}}', None),
    ("hermes", f'{{{NAMED},"arguments":{{1:2}}}}', None),
    ("llama3_json", '\n{"type":"function","name":"clock","parameters":{}}', "{}"),
    ("llama3_json", '<|python_tag|>{"name":"clock","arguments":{}}', "{}"),
    ("llama3_json", f"<|python_start|>{{{NAMED}}}<|python_end|>", "{}"),
    ("llama3_json", '{"city": "Rome", "name": "clock"}', None),
    ("llama3_json", 'Call {"name": "clock", "parameters": {}}', None),
    ("pythonic", "[clock(b={'k': None, 'l': (\n)})]", None),
    ("pythonic", "[clock(a='x\\'\\n')]", '{"a": "x\'\\n"}'),
    ("pythonic", "[clock(b={'k': None,})]", '{"b": {"k": null}}'),
    ("pythonic", "<|python_start|>[clock(a=-1.5e3)]<|python_end|>", '{"a": -1.5e3}'),
    ("pythonic", "<|python_start|>[clock()]", "{}"),
    ("pythonic", '[clock(a="\\ud83d\\ude00\\x41\\/")]', '{"a": "\\ud83d\\ude00A/"}'),
    ("pythonic", "[clock(a='\\d\\U0001f600')]", '{"a": "\\\\d\U0001f600"}'),
    ("pythonic", "[clock(a='\\U0010ffff')]", '{"a": "\U0010ffff"}'),
    ("pythonic", "[clock(a='\\U00110000')]", None),
    ("pythonic", "[clock(a=1, a=2)]", None),
    ("pythonic", "[1] says so", None),
    ("mistral", '[TOOL_CALLS] [ {"name": "clock", "arguments": {}} ]', "{}"),
    ("mistral_v11", '[TOOL_CALLS]clock[CALL_ID]a1b2c3d4e[ARGS]{"a": 1}', '{"a": 1}'),
    ("mistral_v11", "[TOOL_CALLS]clock[ARGS]now", None),
    ("qwen3_coder", "<function=clock>\n</function>", "{}"),
    ("qwen3_coder", "<function=clock \n", None),
    ("qwen3_coder", f"<function=clock>{CODER_A}</function>", '{"a": "1"}'),
    ("qwen3_coder", f"<function=clock>{CODER_A}{CODER_A}</function>", None),
    ("glm45", "<tool_call>clock</tool_call>", "{}"),
    ("glm45", "<tool_call>\nclock\n</tool_call>", "{}"),
    ("glm45", "<tool_call>clock is what I call it", None),
]


@pytest.mark.parametrize(("form", "text", "expected"), ODD)
def test_what_models_write_now_and_then(
    form: str, text: str, expected: str | None
) -> None:
    if form == "hermes":
        text = f"<tool_call>{text}</tool_call>"
    found = answer(form, text)
    if expected is None:
        assert found == Answer(thought="", text=text, calls=())
    else:
        assert found.calls == (Call(name="clock", arguments=expected),)
        assert found.text == ""


def value_of(schema: dict[str, object], text: str) -> object:
    parameters = {"properties": {"a": schema}, "$defs": {"n": {"type": "integer"}}}
    tools = Toolbox(tools=[Tool(name="f", parameters=parameters)])
    body = f"<arg_key>a</arg_key><arg_value>{text}</arg_value>"
    (call,) = answer("glm45", f"<tool_call>f{body}</tool_call>", tools=tools).calls
    return json.loads(call.arguments)["a"]


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "integer"}, "3", 3),
        ({"type": "integer"}, " 3\n", 3),
        ({"type": "integer"}, "3.5", "3.5"),
        ({"type": "number"}, "3", 3),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "false", False),
        ({"type": "string"}, "3", "3"),
        ({}, "\n3\n", "\n3\n"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "integer"]}, "3", 3),
        ({"anyOf": [{"type": "array"}, {"type": "null"}]}, "['a', 1]", ["a", 1]),
        ({"$ref": "#/$defs/n"}, "3", 3),
        ({"$ref": "#/nowhere"}, "3", "3"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"const": 1}, "1", 1),
        ({"type": "object"}, '{"k": [1, {}]}', {"k": [1, {}]}),
        ({"type": "object"}, "{'k': ", "{'k': "),
        ({"type": "array"}, '["</arg_value>"]', ["</arg_value>"]),
        ({"type": "array"}, '["a', '["a'),
        ({"type": "object"}, '{"k": 1} or so', '{"k": 1} or so'),
        ({"type": "array"}, "[" * 9999, "[" * 9999),
    ],
)
def test_text_gets_the_type_that_its_schema_says(
    schema: dict[str, object], text: str, expected: object
) -> None:
    assert value_of(schema, text) == expected


def test_a_web_of_references_costs_little() -> None:
    """Each of ten parts names the next one ten times: 10 ** 10 ways to the last."""
    chain = {
        f"p{n}": {"anyOf": [{"$ref": f"#/$defs/p{n + 1}"}] * 10} for n in range(10)
    }
    schema = {"$defs": {**chain, "p10": {"type": "integer"}}}
    circle = {"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}] * 10}}}
    deep: dict[str, object] = {"type": "integer"}
    for _ in range(900):
        deep = {"anyOf": [deep]}
    for parameters, expected in (
        ({**schema, "properties": {"a": {"$ref": "#/$defs/p6"}}}, 3),
        ({**schema, "properties": {"a": {"$ref": "#/$defs/p0"}}}, "3"),
        (circle, "3"),
        ({"properties": {"a": deep}}, "3"),
    ):
        tools = Toolbox(tools=[Tool(name="f", parameters=parameters)])
        text = "<tool_call>f<arg_key>a</arg_key><arg_value>3</arg_value></tool_call>"
        (call,) = answer("glm45", text, tools=tools).calls
        assert json.loads(call.arguments) == {"a": expected}

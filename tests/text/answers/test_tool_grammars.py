"""What the grammar of a format allows is what its parser reads.

Answers are made by choosing among the allowed tokens, most of which are bytes, and read
again. Markers are special tokens, or letters like all others.
"""

import json
import random
import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from mell_jax.grammar import Grammar, GrammarError, GuideMaker, TokenTable
from mell_jax.grammar.grammar import StructuralTag
from mell_jax.text.answers import (
    FORMATS,
    Beginning,
    Choice,
    Reasoning,
    Tool,
    Toolbox,
    ToolChoice,
    ToolFormat,
    behind_thoughts,
    collect,
)
from tests.text.answers.cases import CLOCK, WEATHER, parse, write_calls

ALL = sorted(FORMATS)
REQUIRED = ToolChoice(kind=Choice.REQUIRED)
MIXED = Tool(
    name="mixed",
    parameters={
        "$defs": {"size": {"type": "integer", "minimum": 1, "maximum": 99}},
        "properties": {
            "a": {"$ref": "#/$defs/size"},
            "b": {
                "type": "object",
                "properties": {"k": {"type": "boolean"}},
                "additionalProperties": False,
            },
            "unit": {"enum": ["C", "F"]},
            "c": {"type": "boolean"},
            "d": {"type": "null"},
        },
        "required": ["unit"],
        "additionalProperties": False,
    },
)
TOOLS = (WEATHER, CLOCK, MIXED)
SpecialId = Callable[[str], int | None]
END = 256


def markers_of(form: ToolFormat) -> Mapping[str, int]:
    """Ids behind the bytes and the end."""
    texts = dict.fromkeys((*form.layout.markers, *form.markers, "</think>"))
    return {text: END + 1 + number for number, text in enumerate(texts)}


class Writer:
    """Writes answers by chance: bytes, and markers as special tokens."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self.texts = {token: text for text, token in special.items()}
        size = END + 1 + len(special)
        self.maker = GuideMaker(
            TokenTable(
                token_bytes=[
                    *(bytes([byte]) for byte in range(256)),
                    *([b""] * (size - 256)),
                ],
                special_ids=frozenset(special.values()),
                end_ids=(END,),
                vocab_size=size,
                encode=lambda text: list(text.encode()),
            )
        )

    def write(
        self, grammar: Grammar, *, seed: int, start: str = "", wishes: tuple[str, ...]
    ) -> str:
        """An answer that begins with `start` and has what is wished for, if it may.

        Free text would not end by chance; wishes end it.
        """
        chance = random.Random(seed)
        guide = self.maker.make(grammar, stop_ids=[END], forces=True)
        ids, wish = list[int](), list(start.encode())
        guidance = guide.advance([])
        while True:
            ids += guidance.forced
            if guidance.forced:
                wish = []
            if guidance.is_complete:
                return self.read(ids)
            assert not guidance.error, (guidance.error, self.read(ids))
            assert guidance.mask is not None
            mask = np.unpackbits(guidance.mask.view(np.uint8), bitorder="little")
            allowed = np.flatnonzero(mask).tolist()
            if (
                len(ids) > len(start.encode())
                and END in allowed
                and chance.random() < 0.3
            ):
                return self.read(ids)
            assert len(ids) < 4000, self.read(ids)
            if not wish and chance.random() < 0.5:
                wish = list(chance.choice(wishes).encode())
            if wish and wish[0] in allowed:
                token = wish.pop(0)
            else:
                wish = []
                letters = [token for token in allowed if token < 128 or token > END]
                token = chance.choice(letters or allowed)
                if token == END:
                    return self.read(ids)
            ids.append(token)
            guidance = guide.advance([token])

    def read(self, ids: list[int]) -> str:
        data = b"".join(
            self.texts[token].encode() if token in self.texts else bytes([token])
            for token in ids
        )
        return data.decode(errors="strict")


WISHES = ('"', "}", "]", "</parameter>", "</arg_value>", "1", ", ")


def writers(form: ToolFormat) -> list[tuple[Writer, SpecialId]]:
    special = markers_of(form)
    return [(Writer(special), special.get), (Writer({}), lambda text: None)]


def fits(arguments: dict[str, object], tool: Tool) -> bool:
    """Whether arguments are those of one of the three tools."""
    checks: dict[str, Callable[[object], bool]] = {
        "city": lambda v: isinstance(v, str),
        "days": lambda v: isinstance(v, int),
        "is_metric": lambda v: isinstance(v, bool),
        "tags": lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v),
        "a": lambda v: isinstance(v, int) and 1 <= v <= 99,
        "b": lambda v: v in ({}, {"k": True}, {"k": False}),
        "unit": lambda v: v in ("C", "F"),
        "c": lambda v: isinstance(v, bool),
        "d": lambda v: v is None,
    }
    properties = tool.schema.get("properties", {})
    needed = tool.schema.get("required", [])
    return (
        set(needed) <= set(arguments)
        and set(arguments) <= set(properties)
        and all(checks[key](value) for key, value in arguments.items())
    )


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("is_parallel", [True, False])
def test_required_calls_are_read_back(form: str, is_parallel: bool) -> None:
    box = Toolbox(tools=TOOLS, choice=REQUIRED, is_parallel=is_parallel)
    numbers, names = set[int](), set[str]()
    for writer, special_id in writers(FORMATS[form]):
        grammar = FORMATS[form].grammar(box, special_id=special_id)
        assert grammar is not None
        for seed in range(25):
            text = writer.write(grammar, seed=seed, wishes=WISHES)
            found = collect(parse(form, [text], tools=box))
            assert found.text == "", text
            for call in found.calls:
                arguments = json.loads(call.arguments)
                assert fits(arguments, box.callable[call.name]), text
                names.add(call.name)
            numbers.add(len(found.calls))
    assert names == {"get_weather", "clock", "mixed"}
    assert numbers == {1} if not is_parallel else min(numbers) == 1 < max(numbers)


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("is_parallel", [True, False])
def test_a_named_tool_is_called_once(form: str, is_parallel: bool) -> None:
    named = ToolChoice.named("clock")
    box = Toolbox(tools=TOOLS, choice=named, is_parallel=is_parallel)
    grammar = FORMATS[form].grammar(box)
    assert grammar is not None
    texts = {Writer({}).write(grammar, seed=seed, wishes=WISHES) for seed in range(9)}
    one_call = write_calls(form, [("clock", {})])
    assert texts == {one_call.replace(', "id": "a1b2c3d4e"', "")}


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("is_parallel", [True, False])
def test_auto_is_free_until_a_call_begins(form: str, is_parallel: bool) -> None:
    this = FORMATS[form]
    is_lead = bool(this.leads)
    box = Toolbox(tools=TOOLS, is_parallel=is_parallel)
    layout = this.layout
    trigger = layout.trigger or "[clock("
    numbers = set[int]()
    for writer, special_id in writers(this):
        grammar = this.grammar(box, special_id=special_id)
        assert grammar is not None
        free = writer.write(grammar, seed=1, start="Hi [1] {", wishes=("x",))
        assert free.startswith("Hi [1] {")
        for seed in range(15):
            is_text = special_id(trigger) is None
            before = "" if is_lead else "Hi \n"
            start = before + (trigger if is_text else "")
            text = writer.write(grammar, seed=seed, start=start, wishes=WISHES)
            found = collect(parse(form, [text], tools=box))
            assert not is_text or found.calls, text
            numbers.add(len(found.calls))
            for call in found.calls:
                assert fits(json.loads(call.arguments), box.callable[call.name]), text
    assert is_parallel or numbers <= {0, 1}


@pytest.mark.parametrize("form", ["llama3_json", "pythonic"])
def test_a_tag_begins_a_call_anywhere(form: str) -> None:
    this = FORMATS[form]
    box = Toolbox(tools=[CLOCK], is_parallel=False)
    for writer, special_id in writers(this):
        grammar = this.grammar(box, special_id=special_id)
        assert grammar is not None
        token = special_id(this.layout.also)
        if token is None:
            text = writer.write(
                grammar, seed=0, start="So " + this.layout.also, wishes=WISHES
            )
            assert text.startswith("So " + this.layout.also)
        else:
            guide = writer.maker.make(grammar, stop_ids=[END], forces=True)
            ids = [*b"So ", token]
            guidance = guide.advance(ids)
            text = writer.read([*ids, *guidance.forced])
        found = collect(parse(form, [text], tools=box))
        assert [call.name for call in found.calls] == ["clock"]
        assert found.text == "So"


@pytest.mark.parametrize("form", ALL)
def test_no_tool_is_no_grammar(form: str) -> None:
    none = Toolbox(tools=TOOLS, choice=ToolChoice(kind=Choice.NONE))
    assert FORMATS[form].grammar(none) is None
    assert FORMATS[form].grammar(Toolbox(tools=[])) is None


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("pythonic", "a-b"),
        ("pythonic", "\u00e9"),
        ("qwen3_coder", "a>b"),
        ("glm45", "</arg_key>"),
    ],
)
def test_arguments_that_cannot_be_written_are_refused(form: str, name: str) -> None:
    tool = Tool(name="f", parameters={"properties": {name: {}}})
    with pytest.raises(GrammarError, match="cannot be written for the tool f"):
        FORMATS[form].grammar(Toolbox(tools=[tool]))


@pytest.mark.parametrize("form", ["pythonic", "qwen3_coder", "glm45"])
def test_what_arguments_share_is_counted_for_each(form: str) -> None:
    shared = {"big": {"type": "integer", "description": "x" * 100_000}}
    properties = {f"a{number}": {"$ref": "#/$defs/big"} for number in range(11)}
    tool = Tool(name="f", parameters={"$defs": shared, "properties": properties})
    with pytest.raises(GrammarError, match="what its arguments refer to once for each"):
        FORMATS[form].grammar(Toolbox(tools=[tool]))


@pytest.mark.parametrize("form", ["qwen3_coder", "glm45"])
def test_a_choice_with_the_end_of_a_value_in_it_is_none(form: str) -> None:
    ends = "</parameter>", "</arg_value>"
    choices = {"enum": [f"a{ends[0]}", f"b{ends[1]}", "c"], "type": "string"}
    parameters = {"properties": {"a": choices}, "required": ["a"]}
    box = Toolbox(tools=[Tool(name="f", parameters=parameters)], choice=REQUIRED)
    grammar = FORMATS[form].grammar(box)
    assert grammar is not None
    for seed in range(8):
        text = Writer({}).write(grammar, seed=seed, wishes=WISHES)
        for call in collect(parse(form, [text], tools=box)).calls:
            assert json.loads(call.arguments)["a"] in choices["enum"]


@pytest.mark.parametrize("form", ALL)
def test_128_tools_compile(form: str) -> None:
    tools = [
        Tool(name=f"tool_{number}", parameters=WEATHER.parameters)
        for number in range(128)
    ]
    for choice in (REQUIRED, ToolChoice(kind=Choice.AUTO)):
        grammar = FORMATS[form].grammar(Toolbox(tools=tools, choice=choice))
        assert grammar is not None
        guide = Writer({}).maker.make(grammar, stop_ids=[END], forces=True)
        assert not guide.advance([]).error


SPECIAL = {"<go>": 257, "</think>": 258, "<think>": 259}
NUMBER = Grammar.from_json_schema({"type": "integer"})


def follow(grammar: Grammar, ids: list[int]) -> str:
    """What must follow these tokens, then "*" if more may, "!" if these may not be."""
    guide = Writer(SPECIAL).maker.make(grammar, stop_ids=[END], forces=True)
    guidance = guide.advance(ids)
    if guidance.error:
        return "!"
    return Writer(SPECIAL).read(list(guidance.forced)) + "*" * (
        not guidance.is_complete
    )


def test_a_trigger_may_be_a_special_token() -> None:
    tags = [
        StructuralTag(begin=(257, "a="), content=NUMBER, end=";"),
        StructuralTag(begin=(257, "b="), content=NUMBER, end=(258,)),
        StructuralTag(begin="[c=", content=NUMBER, end="]"),
    ]
    grammar = Grammar.from_structural_tags(tags, triggers=[257, "["])
    assert follow(grammar, [*b"free <go> text"]) == "*"
    assert follow(grammar, [*b"x", 257, *b"a"]) == "=*"
    assert follow(grammar, [*b"x", 257, *b"c"]) == "!"
    assert follow(grammar, [*b"x["]) == "c=*"
    assert follow(grammar, [*b"x[c=1] y", 257, *b"b=2", 258, *b"z"]) == "*"
    assert follow(grammar, [*b"x", 258]) == "!"


def test_a_tag_without_its_trigger_is_refused() -> None:
    for begin in ((258, "a"), "a", ()):
        tag = StructuralTag(begin=begin, content=NUMBER, end="")
        with pytest.raises(GrammarError, match="begins with none of the triggers"):
            Grammar.from_structural_tags([tag], triggers=[257, "<", ""])
    with pytest.raises(GrammarError, match="must have one structural tag"):
        Grammar.from_structural_tags([], triggers=["<"])


@pytest.mark.parametrize("ending", ["</think>", 258])
def test_a_grammar_may_stand_behind_a_special_token(ending: str | int) -> None:
    grammar = Grammar.from_choice(["yes"]).after(ending)
    ids = [*b"</think>"] if isinstance(ending, str) else [ending]
    assert follow(grammar, [*b"hm </thin"]) == "*"
    assert follow(grammar, [*b"hm ", *ids]) == "yes"
    assert follow(grammar, [*ids, *b"n"]) == "!"


THINK = Reasoning(open="<think>", close="</think>")
YES = Grammar.from_choice(["yes"])


@pytest.mark.parametrize("special_id", [SPECIAL.get, lambda text: None])
def test_thoughts_before_an_answer_are_free(special_id: SpecialId) -> None:
    def ids(text: str) -> list[int]:
        parts = re.split("(</?think>)", text)
        tokens = [special_id(part) if "think" in part else None for part in parts]
        return [
            i
            for part, token in zip(parts, tokens, strict=True)
            for i in ([*part.encode()] if token is None else [token])
        ]

    def after(beginning: Beginning, text: str, *, answer: Grammar = YES) -> str:
        grammar = behind_thoughts(answer, THINK, beginning, special_id=special_id)
        return follow(grammar, ids(text))

    assert after(Beginning.AFTER, "") == "yes"
    assert after(Beginning.AFTER, "<think>") == "!"
    assert after(Beginning.INSIDE, "no</think>y") == "es"
    assert after(Beginning.INSIDE, "no</think>\n\ny") == "es"
    assert after(Beginning.INSIDE, "no</think>\n\n\n") == "!"
    assert after(Beginning.BEFORE, "y") == "es"
    assert after(Beginning.BEFORE, "no") == "!"
    assert after(Beginning.BEFORE, "<think>no</think>y") == "es"
    assert after(Beginning.BEFORE, "\n<think>no</think>\ny") == "es"
    auto = FORMATS["hermes"].grammar(Toolbox(tools=[CLOCK]))
    assert auto is not None
    thinking = "<think>I say <tool_call> if I must"
    assert after(Beginning.BEFORE, thinking, answer=auto) == "*"
    said = thinking + "</think>\n\nSo <tool_call>"
    assert after(Beginning.BEFORE, said, answer=auto).startswith('\n{"name": "clock"')
    assert after(Beginning.BEFORE, "So <tool_call>x", answer=auto) == "!"

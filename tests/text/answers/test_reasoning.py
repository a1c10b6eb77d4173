"""Thoughts are parted from what is said, and calls are found behind them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mell_jax.text.answers import (
    FORMATS,
    Answer,
    AnswerParser,
    Beginning,
    Call,
    Event,
    Reasoning,
    ReasoningParser,
    Recast,
    Said,
    Thought,
    Toolbox,
    collect,
    find_beginning,
    find_reasoning,
)
from tests.text.answers.cases import EXAMPLE, TOOLBOX, cut, merged, write_calls

THINK = Reasoning(open="<think>", close="</think>")
BEFORE, INSIDE, AFTER = Beginning.BEFORE, Beginning.INSIDE, Beginning.AFTER
PIECES = ["<think>", "</think>", "<th", "</", "\n", " ", "a", "<", "<tool_call>"]
TEXTS = st.lists(st.sampled_from([*PIECES, write_calls("hermes", EXAMPLE)])).map(
    "".join
)


def parse(pieces: list[str] | str, beginning: Beginning) -> list[Event]:
    parser = ReasoningParser(THINK, beginning)
    events = [event for piece in pieces for event in parser.push(piece)]
    return merged([*events, *parser.finish()])


@pytest.mark.parametrize(
    ("beginning", "text", "events"),
    [
        (BEFORE, "<think>\nHm.\n</think>\n\n42", [Thought("Hm."), Said("42")]),
        (BEFORE, "\n<think>Hm.</think>42\n", [Thought("Hm."), Said("42\n")]),
        (BEFORE, "42", [Said("42")]),
        (BEFORE, "Hm.\n</think>\n42", [Said("Hm."), Recast(), Said("42")]),
        (BEFORE, "is <think> a tag", [Said("is <think> a tag")]),
        (BEFORE, "<think>Hm.\n", [Thought("Hm.")]),
        (BEFORE, "<think>\n\n</think>\n\n42", [Said("42")]),
        (INSIDE, "Hm.\n\nOh.\n</think>42", [Thought("Hm.\n\nOh."), Said("42")]),
        (INSIDE, "<think>\nHm.</think>42", [Thought("Hm."), Said("42")]),
        (INSIDE, "Hm.</think>a</think>b", [Thought("Hm."), Said("a</think>b")]),
        (INSIDE, "Hm.</thin", [Thought("Hm.</thin")]),
        (AFTER, "a</think>b<think>", [Said("a</think>b<think>")]),
        (BEFORE, "", []),
        (INSIDE, "", []),
    ],
)
def test_thoughts_are_parted(
    beginning: Beginning, text: str, events: list[Event]
) -> None:
    assert parse([text], beginning) == events


@settings(max_examples=300)
@given(TEXTS, st.sampled_from(Beginning), st.lists(st.integers(0, 99), max_size=6))
def test_cuts_change_nothing(
    text: str, beginning: Beginning, places: list[int]
) -> None:
    whole = parse([text], beginning)
    assert parse(text, beginning) == whole
    assert parse(cut(text, places), beginning) == whole


@settings(max_examples=300)
@given(TEXTS, st.sampled_from(Beginning))
def test_only_breaks_and_marks_are_left_out(text: str, beginning: Beginning) -> None:
    told = "".join(
        e.text for e in parse([text], beginning) if not isinstance(e, Recast)
    )
    for mark in ("<think>", "</think>", "\n", " "):
        text, told = text.replace(mark, ""), told.replace(mark, "")
    assert told == text


def test_thoughts_are_told_as_they_come() -> None:
    parser = ReasoningParser(THINK, INSIDE)
    assert parser.push("Hm") == (Thought("Hm"),)
    assert parser.push(", <") == (Thought(", "),)
    assert parser.push("b>\n") == (Thought("<b>"),)
    assert parser.push("</think>") == ()
    assert parser.push("\nOh") == (Said("Oh"),)


@pytest.mark.parametrize(
    ("prompt", "continued", "beginning"),
    [
        ("<|im_start|>assistant\n", "", BEFORE),
        ("<|im_start|>assistant\n<think>\n", "", INSIDE),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "", AFTER),
        ("<|assistant|></think>", "", AFTER),
        ("what is <think>?<|im_end|>\n<|im_start|>assistant\n", "", BEFORE),
        ("assistant\n<think>\nHm, let", "<think>\nHm, let", INSIDE),
        ("assistant\n<think>\nHm\n</think>\n4", "<think>\nHm\n</think>\n4", AFTER),
        ("assistant\nThe answer", "The answer", AFTER),
    ],
)
def test_the_prompt_says_where_the_answer_begins(
    prompt: str, continued: str, beginning: Beginning
) -> None:
    found = find_beginning(THINK, prompt=prompt, continued=continued)
    assert found is beginning


def test_marks_are_found_in_the_template() -> None:
    assert find_reasoning("{{ '<think>\\n\\n</think>' }}") == THINK
    seed = Reasoning(open="<seed:think>", close="</seed:think>")
    assert find_reasoning("<seed:think>{{ x }}</seed:think>") == seed
    assert find_reasoning("{{ '<think>\\n' }}") == THINK  # it begins the block alone
    assert find_reasoning("{{ messages }}") is None


def whole(
    text: list[str] | str, *, beginning: Beginning = BEFORE, form: str = "hermes"
) -> Answer:
    parser = AnswerParser(
        reasoning=THINK, beginning=beginning, form=FORMATS[form], tools=TOOLBOX
    )
    events = [event for piece in text for event in parser.push(piece)]
    return collect([*events, *parser.finish()])


CLOCK = (Call(name="clock", arguments="{}"),)


@pytest.mark.parametrize("form", FORMATS)
def test_calls_follow_thoughts(form: str) -> None:
    call = write_calls(form, [("clock", {})])
    found = whole(f"<think>\nI call {call}\n</think>\n\n{call}", form=form)
    assert found == Answer(thought=f"I call {call}", text="", calls=CLOCK)


def test_a_block_that_only_ends_is_a_thought() -> None:
    call = write_calls("hermes", [("clock", {})])
    found = whole(f"Hm <tool_\n</think>\nok{call}")
    assert found == Answer(thought="Hm <tool_", text="ok", calls=CLOCK)


def test_what_follows_a_call_is_no_end_of_a_thought() -> None:
    call = write_calls("hermes", [("clock", {})])
    found = whole(f"{call}</think>x")
    assert found == Answer(thought="", text="</think>x", calls=CLOCK)


@given(TEXTS, st.sampled_from(Beginning), st.lists(st.integers(0, 99), max_size=6))
def test_cuts_change_no_answer(
    text: str, beginning: Beginning, places: list[int]
) -> None:
    assert whole(cut(text, places), beginning=beginning) == whole(
        [text], beginning=beginning
    )


def test_without_marks_and_tools_all_is_said() -> None:
    parser = AnswerParser()
    assert parser.push("<think>a") == (Said("<think>a"),)
    assert parser.push("") == ()
    assert parser.finish() == ()


def test_a_parser_names_the_special_tokens_that_it_reads() -> None:
    assert AnswerParser().spellings == frozenset()
    form = FORMATS["mistral_v11"]
    parser = AnswerParser(reasoning=THINK, form=form, tools=TOOLBOX)
    names = {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"}
    assert parser.spellings == {"<think>", "</think>", *names}
    none = AnswerParser(form=form, tools=Toolbox(tools=[]))
    assert none.spellings == frozenset()

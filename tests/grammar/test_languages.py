"""What the engine writes is in a language, of which a guide lets everything through.

Schemas and languages are made by hypothesis, which knows a reference of each.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mell_jax.grammar import Grammar, GuideMaker
from mell_jax.grammar.check_child import bytes_table, find_error
from tests.grammar.corpus_fleet import TABLE, CorpusFleet, Wish
from tests.grammar.made import LETTERS, Language, languages, schemas
from tests.grammar.validation import fault_of
from tests.toy import TOY_END

BYTES = bytes_table().compiled()
BATCH = 8
how_many = pytest.mark.parametrize(
    "count", [6, pytest.param(150, marks=pytest.mark.slow)]
)


@cache
def maker() -> GuideMaker:
    return GuideMaker(TABLE)


@pytest.fixture(scope="module")
def fleet() -> Iterator[CorpusFleet]:
    made = CorpusFleet()
    yield made
    made.fleet.close()


def many(count: int) -> settings:
    return settings(
        max_examples=count,
        suppress_health_check=list(HealthCheck),
        phases=[phase for phase in Phase if phase is not Phase.shrink],
    )


def written(fleet: CorpusFleet, grammars: Sequence[Grammar]) -> list[str]:
    """What the engine answers to each, greedily to every other."""
    wishes = {
        str(number): Wish(grammar=one, temperature=float(number % 2), seed=number)
        for number, one in enumerate(grammars)
    }
    return list(fleet.texts(wishes).values())


def lets_through(grammar: Grammar, text: str) -> bool:
    guide = maker().make(grammar, stop_ids=[TOY_END], forces=False)
    mask = guide.advance([]).mask
    for token in TABLE.encode(text):
        if mask is None or not mask[token // 32] >> (token % 32) & 1:
            return False
        mask = guide.advance([token]).mask
    return mask is None or bool(mask[TOY_END // 32] >> (TOY_END % 32) & 1)


@how_many
def test_answers_fit_made_schemas(fleet: CorpusFleet, count: int) -> None:
    @many(count)
    @given(st.lists(schemas(), min_size=BATCH, max_size=BATCH))
    def answer(made: list[Any]) -> None:
        grammars = [Grammar.from_json_schema(schema) for schema in made]
        errors = [find_error(grammar.source, BYTES) for grammar in grammars]
        usable = [i for i, error in enumerate(errors) if not error]
        texts = written(fleet, [grammars[i] for i in usable])
        for i, text in zip(usable, texts, strict=True):
            assert not fault_of(text, schema=made[i]), (text, made[i])
        for i, error in enumerate(errors):
            assert not error, (made[i], error)

    answer()


@how_many
def test_answers_are_of_made_languages(fleet: CorpusFleet, count: int) -> None:
    @many(count)
    @given(st.lists(languages(), min_size=BATCH, max_size=BATCH))
    def answer(made: list[Language]) -> None:
        grammars = [Grammar.from_regex(one.pattern) for one in made[::2]]
        grammars += [Grammar.from_lark(one.lark) for one in made[1::2]]
        texts = written(fleet, grammars)
        for one, text in zip([*made[::2], *made[1::2]], texts, strict=True):
            assert one.has(text), (one, text)

    answer()


@how_many
def test_a_guide_lets_through_what_matches_and_nothing_else(count: int) -> None:
    @many(count * 4)
    @given(languages(), st.data())
    def compare(one: Language, data: st.DataObject) -> None:
        matching = st.from_regex(one.pattern, fullmatch=True, alphabet=LETTERS)
        near = st.text(LETTERS, max_size=8)
        for text in data.draw(st.lists(matching, max_size=3) | st.lists(near)):
            for grammar in (
                Grammar.from_regex(one.pattern),
                Grammar.from_lark(one.lark),
            ):
                assert lets_through(grammar, text) == one.has(text), (one, text)

    compare()


@how_many
def test_choices_are_these_and_no_others(fleet: CorpusFleet, count: int) -> None:
    texts = st.text(LETTERS + '"\\{', min_size=1, max_size=8)

    @many(count)
    @given(st.lists(st.lists(texts, min_size=1, max_size=5), min_size=1, max_size=8))
    def answer(made: list[list[str]]) -> None:
        grammars = [Grammar.from_choice(choices) for choices in made]
        for choices, text in zip(made, written(fleet, grammars), strict=True):
            assert text in choices
        for choices, grammar in zip(made, grammars, strict=True):
            every = {*choices, *(text[:-1] for text in choices), *made[0]}
            for text in every:
                assert lets_through(grammar, text) == (text in choices), (choices, text)

    answer()


def _is_balanced(text: str) -> bool:
    while "()" in text:
        text = text.replace("()", "")
    return not text


def _is_a_list(text: str) -> bool:
    flat = re.sub(r"\([a-c](-[a-c])*\)", "a", text)
    return (
        _is_a_list(flat) if flat != text else bool(re.fullmatch("[a-c](-[a-c])*", text))
    )


RECURSIVE = {
    "as then bs": (
        'start: "a" start "b" | "ab"\n',
        lambda text: text == "a" * (len(text) // 2) + "b" * (len(text) // 2) != "",
    ),
    "balanced": (
        'start: pair+\npair: "(" pair* ")"\n',
        lambda text: text != "" and _is_balanced(text),
    ),
    "palindromes": (
        'start: "a" start "a" | "b" start "b" | "c"\n',
        lambda text: text == text[::-1] and re.fullmatch("[ab]*c[ab]*", text),
    ),
    "left": (
        'start: start "-" "a" | "b"\n',
        lambda text: re.fullmatch("b(-a)*", text),
    ),
    "GBNF": (
        'root ::= item ("-" item)*\nitem ::= [a-c] | "(" root ")"\n',
        _is_a_list,
    ),
}


@pytest.mark.parametrize("name", RECURSIVE)
def test_a_guide_follows_what_no_regex_can(fleet: CorpusFleet, name: str) -> None:
    lark, has = RECURSIVE[name]
    grammar = Grammar.from_lark(lark)

    @many(60)
    @given(st.text("abc()-", max_size=7))
    def compare(text: str) -> None:
        assert lets_through(grammar, text) == bool(has(text)), text

    compare()
    wishes = {str(seed): Wish(grammar=grammar, seed=seed) for seed in range(BATCH)}
    for text in fleet.texts(wishes).values():
        assert has(text), text

"""Through the engine every answer fits its schema, and every one comes to an end."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.grammar.corpus import corpus
from mell_jax.grammar import Grammar
from tests.grammar.corpus_fleet import MOST, CorpusFleet, Wish
from tests.grammar.test_schema_keywords import KEPT
from tests.grammar.validation import FORMATS, fault_of

CORPUS = corpus()
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))]


@pytest.fixture(scope="module")
def fleet() -> Iterator[CorpusFleet]:
    made = CorpusFleet()
    yield made
    made.fleet.close()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_answer_fits_its_schema(
    fleet: CorpusFleet, temperature: float, seed: int
) -> None:
    wishes = {
        name: Wish(
            grammar=Grammar.from_json_schema(schema),
            temperature=temperature,
            seed=number + 1000 * seed,
        )
        for number, (name, schema) in enumerate(CORPUS.items())
    }
    texts = fleet.texts(wishes)
    faults = {
        name: (text, fault)
        for name, text in texts.items()
        if (fault := fault_of(text, schema=CORPUS[name]))
    }
    assert faults == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_beside_others_are_as_they_are_alone(
    fleet: CorpusFleet, seed: int
) -> None:
    """Schemas, regular expressions and free rows come and go in one batch."""
    rng = random.Random(seed)
    grammars = {
        name: Grammar.from_json_schema(CORPUS[name])
        for name in rng.sample(list(CORPUS), 16)
    }
    grammars["regex"] = Grammar.from_regex("[a-d]{9}(ab|cd){3}")
    grammars["thought"] = Grammar.from_choice(["ab", "c"]).after('"')
    free = {f"free {number}": None for number in range(9)}
    mixed = [*grammars.items(), *free.items()]
    rng.shuffle(mixed)
    wishes = {
        name: Wish(
            grammar=grammar,
            temperature=rng.choice([0.0, 1.0]),
            seed=rng.randrange(1000),
            most=MOST if grammar else rng.randrange(5, 60),
        )
        for name, grammar in mixed
    }
    together = fleet.tokens(wishes)
    for name, wish in wishes.items():
        assert fleet.tokens({name: wish})[name] == together[name], name


def test_the_corpus_has_every_keyword_and_every_format() -> None:
    assert len({json.dumps(schema) for schema in CORPUS.values()}) >= 200
    used = {name for schema in CORPUS.values() for name in _names(schema)}
    assert set(KEPT) <= used
    assert set(FORMATS) <= used


def _names(value: Any) -> Iterator[str]:
    """Yields names and texts anywhere in a schema."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _names(item)
    if isinstance(value, str):
        yield value

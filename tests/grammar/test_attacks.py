"""Eight good requests beside attacks get what they get alone."""

import asyncio
from collections.abc import Iterator

import pytest

from mell_jax import LLM, Grammar, InvalidRequestError, RequestOutput, SamplingParams
from mell_jax.frontend import RequestFailedError
from tests.grammar.attacks import grammars

MOST = 24
PERSON = Grammar.from_json_schema(
    {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["age"],
        "additionalProperties": False,
    }
)
ATTACKS = {
    name: grammar
    for name, grammar in grammars().items()
    if name
    in {
        *("laughs anyOf", "doubled", "refers to itself", "items 100,000"),
        *(
            "multiple of 999,983",
            "(a+)+b",
            "a{100000}",
            "states 2^30",
            "options 20,000",
        ),
        *("ambiguous", "doubling", "nothing but brackets", "a megabyte"),
    }
}
GOOD = [
    SamplingParams(temperature=0.0, max_tokens=MOST, grammar=PERSON if i % 2 else None)
    for i in range(8)
]
PROMPTS = [f"Once upon a time {i}" for i in range(8)]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    options = {
        "max_rows": 32,
        "decode_rows": (32,),
        "token_budget": 64,
        "max_model_len": 256,
        "kv_pages": 129,
    }
    with LLM(**options) as llm:
        yield llm


def ids(outputs: list[RequestOutput]) -> list[tuple[int, ...]]:
    return [output.token_ids for output in outputs]


def test_attacks_end_cleanly_and_harm_nobody(llm: LLM) -> None:
    alone = llm.generate(PROMPTS, GOOD)
    assert ['{"age": ' in output.text for output in alone] == [False, True] * 4

    async def attack(grammar: Grammar) -> Exception | None:
        params = SamplingParams(max_tokens=MOST, grammar=grammar)
        try:
            await llm.agenerate("I attack", params)
        except (InvalidRequestError, RequestFailedError) as error:
            return error
        return None

    async def scenario() -> list[Exception | None]:
        attacks = [asyncio.ensure_future(attack(one)) for one in ATTACKS.values()]
        for _ in range(3):
            assert ids(await llm.agenerate(PROMPTS, GOOD)) == ids(alone)
        return await asyncio.gather(*attacks)

    found = dict(zip(ATTACKS, asyncio.run(scenario()), strict=True))
    for name in ("doubled", "multiple of 999,983", "nothing but brackets"):
        assert str(found[name]).startswith("grammar "), found
    assert ids(llm.generate(PROMPTS, GOOD)) == ids(alone)


def test_an_error_comes_before_anything_is_generated(llm: LLM) -> None:
    params = SamplingParams(grammar=Grammar.from_json_schema({"not": {}}))
    with pytest.raises(InvalidRequestError, match='grammar has the keyword "not"'):
        llm.generate("I ask", params)

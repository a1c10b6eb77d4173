"""Times of guides alone: made, told token by token, made anew behind tokens."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.grammar.answers import answer_to, byte_maker
from benchmarks.grammar.corpus import corpus
from mell_jax.bench.stats import Summary, summarize
from mell_jax.grammar import Grammar, GuideMaker, TokenTable

REPLAYED_TOKENS = 49


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer is a grammar and the tokens of a text that it allows."""

    grammar: Grammar
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuideResult:
    """A result is of all answers of a corpus, in milliseconds unless named."""

    tokenizer_s: float  # once, of the whole vocabulary
    schemas: int
    new_ms: Summary  # a guide of a grammar that was not seen before, its mask included
    kept_ms: Summary  # likewise of one that was compiled
    mask_ms: Summary  # a row told a token: taken in, what is forced, the mask
    kept_mask_ms: Summary  # the same answers once more
    replay_ms: Summary  # a guide made behind so many tokens
    tokens: int
    forced_tokens: int


def make_answers(table: TokenTable, *, seed: int) -> list[Answer]:
    """Returns an answer to every schema of the corpus, and longer ones."""
    rng, maker = random.Random(seed), byte_maker()
    grammars = [Grammar.from_json_schema(schema) for schema in _schemas()]
    texts = [answer_to(grammar, maker=maker, rng=rng) for grammar in grammars]
    return [
        Answer(grammar=grammar, tokens=tuple(table.encode(text)))
        for grammar, text in zip(grammars, texts, strict=True)
    ]


def _schemas() -> Iterator[dict[str, object] | bool]:
    yield from corpus().values()
    note = {"type": "string", "maxLength": 400}
    for name, most in (("notes", 4), ("pages", 6), ("lines", 8)):
        item = {
            "type": "object",
            "properties": {"id": {"type": "integer"}, "text": note},
            "required": ["id", "text"],
            "additionalProperties": False,
        }
        items = {"type": "array", "minItems": 3, "maxItems": most, "items": item}
        yield {"type": "object", "properties": {name: items}, "required": [name]}


def measure_guides(table: TokenTable, *, answers: Sequence[Answer]) -> GuideResult:
    """Follows all answers, twice."""
    start_s = time.perf_counter()
    maker = GuideMaker(table)
    tokenizer_s = time.perf_counter() - start_s
    new_ms, mask_ms = _follow_all(maker, answers)
    again = [answer for answer in answers if maker.keeps(answer.grammar)]
    kept_ms, kept_mask_ms = _follow_all(maker, again)
    replays_ms = [
        _replay_ms(maker, answer)
        for answer in again
        if len(answer.tokens) >= REPLAYED_TOKENS
    ]
    return GuideResult(
        tokenizer_s=tokenizer_s,
        schemas=len(answers),
        new_ms=summarize(new_ms),
        kept_ms=summarize(kept_ms),
        mask_ms=summarize(mask_ms),
        kept_mask_ms=summarize(kept_mask_ms),
        replay_ms=summarize(replays_ms),
        tokens=sum(len(answer.tokens) for answer in answers),
        forced_tokens=sum(count_forced(maker, answer) for answer in answers),
    )


def _follow_all(
    maker: GuideMaker, answers: Sequence[Answer]
) -> tuple[list[float], list[float]]:
    """Milliseconds until each first mask, and of each one after a token."""
    first_ms, later_ms = list[float](), list[float]()
    for answer in answers:
        start_s = time.perf_counter()
        guide = maker.make(answer.grammar, stop_ids=maker.end_ids, forces=False)
        guide.advance([])
        first_ms.append(1e3 * (time.perf_counter() - start_s))
        for token in answer.tokens:
            start_s = time.perf_counter()
            guidance = guide.advance([token])
            later_ms.append(1e3 * (time.perf_counter() - start_s))
            assert not guidance.error, guidance.error
    return first_ms, later_ms


def _replay_ms(maker: GuideMaker, answer: Answer) -> float:
    start_s = time.perf_counter()
    guide = maker.make(answer.grammar, stop_ids=maker.end_ids, forces=False)
    guide.advance(answer.tokens[:REPLAYED_TOKENS])
    return 1e3 * (time.perf_counter() - start_s)


def count_forced(maker: GuideMaker, answer: Answer) -> int:
    """Returns how many tokens of an answer need no step of the model's.

    A forced run may go on otherwise than the answer where a tokenizer splits a text in
    several ways; then the answer counts no further.
    """
    guide = maker.make(answer.grammar, stop_ids=maker.end_ids, forces=True)
    forced, at = 0, 0
    guidance = guide.advance([])
    while True:
        end = at + len(guidance.forced)
        if guidance.error or answer.tokens[at:end] != guidance.forced:
            return forced
        forced += len(guidance.forced)
        if guidance.mask is None or end >= len(answer.tokens):
            return forced
        guidance = guide.advance([answer.tokens[end]])
        at = end + 1

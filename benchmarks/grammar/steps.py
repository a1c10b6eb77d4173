"""Times of an engine's rows beside rows with a grammar, and of first tokens."""

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.engine.harness import GREEDY, EngineHarness
from mell_jax.bench.stats import Summary, median, summarize
from mell_jax.engine.params import SamplingParams
from mell_jax.grammar import Grammar, GrammarCheck

PROMPT_TOKENS = 16
SETTLING_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A result is in milliseconds between two tokens of a free row."""

    rows: int
    constrained: int  # of the rows
    free_ms: Summary  # all rows free
    beside_ms: Summary  # so many constrained
    ratio: float  # of the medians, the median over the turns
    own_ms: Summary  # between two answers of a constrained row


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTokenResult:
    """A result is in milliseconds from a request until its first token."""

    free_ms: Summary
    new_ms: Summary  # with a schema that was not seen before, its check included
    known_ms: Summary  # with one that was
    new_more_ms: float  # than without a schema in the same turn, the median
    known_more_ms: float  # likewise


def measure_steps(
    harness: EngineHarness,
    *,
    rows: int,
    constrained: int,
    steps: int,
    repeats: int,
    seed: int,
) -> StepResult:
    """Measures all rows free and some constrained, in turns."""
    free_ms, beside_ms, own_ms = list[float](), list[float](), list[float]()
    ratios = list[float]()
    for turn in range(repeats):
        free, _ = _turn(harness, rows=rows, constrained=0, steps=steps, seed=seed)
        beside, own = _turn(
            harness, rows=rows, constrained=constrained, steps=steps, seed=seed + turn
        )
        ratios.append(median(beside) / median(free))
        free_ms += free
        beside_ms += beside
        own_ms += own
    return StepResult(
        rows=rows,
        constrained=constrained,
        free_ms=summarize(free_ms),
        beside_ms=summarize(beside_ms),
        ratio=median(ratios),
        own_ms=summarize(own_ms),
    )


def measure_first_tokens(
    harness: EngineHarness, *, repeats: int, seed: int
) -> FirstTokenResult:
    """Measures requests that come to an idle engine, one after the other, in turns."""
    times = {"free": list[float](), "new": list[float](), "known": list[float]()}
    rng, checker = np.random.default_rng(seed), GrammarCheck()
    known = person(-1)
    checker.check(known)
    _first_token_ms(harness, rng, grammar=known)
    for turn, kind in itertools.product(range(repeats), times):
        grammar = {"free": None, "new": person(turn), "known": known}[kind]
        start_s = time.perf_counter()
        if kind == "new" and grammar is not None:
            checker.check(grammar)
        checked_ms = 1e3 * (time.perf_counter() - start_s)
        took_ms = _first_token_ms(harness, rng, grammar=grammar)
        times[kind].append(checked_ms + took_ms)
    checker.close()
    return FirstTokenResult(
        free_ms=summarize(times["free"]),
        new_ms=summarize(times["new"]),
        known_ms=summarize(times["known"]),
        new_more_ms=_more_ms(times["new"], than=times["free"]),
        known_more_ms=_more_ms(times["known"], than=times["free"]),
    )


def person(number: int) -> Grammar:
    """Returns the grammar of a schema of ordinary size, each number another one.

    Its first token is not forced: it would come before any step of the model's.
    """
    text = {"type": "string", "maxLength": 40}
    address = {
        "type": "object",
        "properties": {"street": text, "city": text, f"code_{number}": text},
        "required": ["street", "city"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {
            f"name_{number}": text,
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "mail": {"type": "string", "format": "email"},
            "born": {"type": "string", "format": "date"},
            "kind": {"enum": ["friend", "colleague", "stranger"]},
            "addresses": {"type": "array", "items": address, "maxItems": 3},
        },
        "required": [f"name_{number}", "age", "born", "addresses"],
        "additionalProperties": False,
    }
    either = {"anyOf": [schema, {"type": "array", "items": schema}]}
    return Grammar.from_json_schema(json.dumps(either))


def endless(number: int) -> Grammar:
    """Returns the grammar of a list that no measurement sees the end of."""
    text = {"type": "string", "maxLength": 60}
    item = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, f"text_{number}": text},
        "required": ["id", f"text_{number}"],
        "additionalProperties": False,
    }
    return Grammar.from_json_schema({"type": "array", "items": item, "minItems": 2000})


def _turn(
    harness: EngineHarness, *, rows: int, constrained: int, steps: int, seed: int
) -> tuple[list[float], list[float]]:
    """Milliseconds between tokens of the free rows, and of the others."""
    rng = np.random.default_rng(seed)
    vocab_size = harness.engine.infos[0].vocab_size
    new_tokens = steps + 2 * SETTLING_STEPS + rows
    handles = list[int]()
    for row in range(rows):
        is_bound = row < constrained
        params = (
            SamplingParams(temperature=0.0, grammar=endless(row % 4))
            if is_bound
            else GREEDY
        )
        prompt = rng.integers(0, vocab_size, PROMPT_TOKENS, dtype=np.int32)
        tokens = 8 * new_tokens if is_bound else new_tokens
        handles += harness.submit([prompt], new_tokens=tokens, params=params)
    bound, free = set(handles[:constrained]), set(handles[constrained:])
    times: dict[bool, dict[int, list[float]]] = {True: {}, False: {}}
    full = 0
    for frame in harness.run():
        here = set(frame.handles)
        full += free <= here
        if full > SETTLING_STEPS:
            for handle in here:
                lane = times[handle in bound].setdefault(handle, [])
                lane.append(frame.time_s)
        if full > SETTLING_STEPS + steps:
            break
    harness.clear()
    assert full > SETTLING_STEPS + steps, "rows ended before they were measured"
    return list(_gaps_ms(times[False])), list(_gaps_ms(times[True]))


def _gaps_ms(lanes: dict[int, list[float]]) -> Iterator[float]:
    for times_s in lanes.values():
        for before, after in itertools.pairwise(times_s):
            yield 1e3 * (after - before)


def _more_ms(times_ms: list[float], *, than: list[float]) -> float:
    """Returns the median of the differences in each turn: a machine's pace drifts."""
    return median([one - other for one, other in zip(times_ms, than, strict=True)])


def _first_token_ms(
    harness: EngineHarness, rng: np.random.Generator, *, grammar: Grammar | None
) -> float:
    vocab_size = harness.engine.infos[0].vocab_size
    prompt = rng.integers(0, vocab_size, PROMPT_TOKENS, dtype=np.int32)
    params = dataclasses.replace(GREEDY, grammar=grammar)
    start_s = time.perf_counter()
    harness.submit([prompt], new_tokens=1, params=params)
    for frame in harness.run():
        if frame.tokens:
            took_ms = 1e3 * (frame.time_s - start_s)
            break
    else:
        raise AssertionError("no token came")
    harness.clear()
    return took_ms

"""Grammars are found out about once, and one tenant's never delay another's."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from mell_jax.frontend import grammar_gate
from mell_jax.frontend.executors import Executors
from mell_jax.frontend.grammar_gate import GrammarGate
from mell_jax.grammar import Grammar, GrammarCheck, GrammarError

LIMIT_S = 0.2
GOOD = Grammar.from_choice(["yes", "no"])
BAD = Grammar(lark='start: "a" nope\n')


def hostile(number: int) -> Grammar:
    """A grammar that takes all the time there is; each one is another."""
    return Grammar.from_json_schema(
        {"type": "integer", "multipleOf": 999_983 + number * 2}
    )


@contextlib.asynccontextmanager
async def gate() -> AsyncIterator[GrammarGate]:
    executors = Executors(clock=time.monotonic)
    gate = GrammarGate(executors, checker=GrammarCheck(limit_s=LIMIT_S))
    try:
        yield gate
    finally:
        executors.close()
        await asyncio.to_thread(gate.close)


async def errors(
    gate: GrammarGate, grammars: Sequence[Grammar], *, tenant: str = ""
) -> list[str]:
    waiting = [gate.check(grammar, tenant=tenant) for grammar in grammars]
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(error is None or isinstance(error, GrammarError) for error in found)
    return ["" if error is None else str(error) for error in found]


def test_what_is_known_costs_no_process() -> None:
    async def scenario() -> None:
        async with gate() as known:
            first = await errors(known, [GOOD, BAD])
            await asyncio.to_thread(known._checker.close)
            start_s = time.perf_counter()
            assert await errors(known, [GOOD, BAD]) == first
            assert time.perf_counter() - start_s < 0.05
            assert first[0] == ""
            assert 'unknown name: "nope"' in first[1]
            assert known._checker._idle.queue == [None, None]

    asyncio.run(scenario())


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_gate, "MAX_KNOWN", 4)

    async def scenario() -> None:
        async with gate() as flooded:
            await errors(flooded, [GOOD])
            for number in range(6):
                await errors(flooded, [Grammar.from_choice([f"text {number}"]), GOOD])
            assert len(flooded._known) == 4
            await asyncio.to_thread(flooded._checker.close)
            assert await errors(flooded, [GOOD]) == [""]  # used lately: not forgotten
            assert flooded._checker._idle.queue == [None, None]

    asyncio.run(scenario())


def test_a_flood_of_one_tenant_delays_others_by_a_limit_at_most() -> None:
    async def scenario() -> None:
        async with gate() as flooded:
            await errors(flooded, [GOOD, BAD])  # both processes are there
            flood = asyncio.ensure_future(
                errors(flooded, [hostile(n) for n in range(6)], tenant="bad")
            )
            await asyncio.sleep(0.05)
            good = Grammar.from_choice(["good"])
            assert await errors(flooded, [good], tenant="good") == [""]
            assert not flood.done()
            assert all("s of a processor" in error for error in await flood)

    asyncio.run(scenario())


def test_who_leaves_keeps_its_turn_until_the_check_ends() -> None:
    """Else a client that asks and leaves would have all threads to itself."""

    async def scenario() -> None:
        async with gate() as left:
            asking = [
                asyncio.ensure_future(left.check(hostile(n), tenant="bad"))
                for n in range(2)
            ]
            await asyncio.sleep(0.05)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            assert left._turns._held == {"bad": 2}
            assert await errors(left, [GOOD]) == [""]

    asyncio.run(scenario())


def test_grammars_that_differ_in_their_parts_alone_are_two() -> None:
    one = Grammar(lark="start: @a\n", parts=(("a", 'start: "x"'), ("b", 'start: "y"')))
    two = Grammar(lark="start: @a\n", parts=(("as", 'tart: "x"'), ("b", 'start: "y"')))
    assert grammar_gate._digest(one) != grammar_gate._digest(two)
    assert grammar_gate._digest(one) == grammar_gate._digest(
        Grammar(lark=one.lark, parts=tuple(list(one.parts)))
    )

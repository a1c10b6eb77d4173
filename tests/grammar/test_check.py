"""Whatever a grammar is, its check ends in time, and others are not held up."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator

import pytest

from mell_jax.grammar.check import GrammarCheck
from mell_jax.grammar.grammar import Grammar, GrammarError
from tests.grammar.attacks import GOOD_ENUM, grammars, large_schema

SLACK_S = 8.0  # of a busy machine
ATTACKS = grammars()
GOOD = Grammar.from_json_schema({"type": "object", "properties": {"a": GOOD_ENUM}})


@pytest.fixture(scope="module")
def checker() -> Iterator[GrammarCheck]:
    with contextlib.closing(GrammarCheck(limit_s=0.3)) as checker:
        yield checker


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_in_time(checker: GrammarCheck, name: str) -> None:
    start_s = time.monotonic()
    try:
        checker.check(ATTACKS[name])
    except GrammarError as error:
        assert 10 < len(str(error)) < 600
    assert time.monotonic() - start_s < SLACK_S


def test_ten_megabytes_are_refused_before_they_are_read() -> None:
    with pytest.raises(GrammarError, match="has 10400010 bytes; at most 1048576"):
        Grammar.from_json_schema(large_schema())


SAYS = {  # what callers are told
    "nested 2,000": "nested too deeply",
    "nested 200": "nested too deeply",
    "refers to itself": "allows no text at all",
    "chain of 3,000": "takes more of the stack than there is to compile",
    "multiple of 999,983": "takes more than 0.3 s of a processor to compile",
    "a{100000}": "begins with 100000 bytes that leave no choice",
    "multiples of primes": "is too large or too ambiguous to be followed: fuel",
    "look-ahead": "regular expression with look-around",
    "reference": "cannot be used: backreferences are not supported",
    "groups": "nested too deeply",
    "10,000 rules": "takes more of the stack than there is to compile",
    "no rule": "no start rule found",
}


@pytest.mark.parametrize("name", SAYS)
def test_an_attack_is_told_what_is_wrong(checker: GrammarCheck, name: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(SAYS[name])):
        checker.check(ATTACKS[name])


@pytest.mark.parametrize("name", ["nested 60", "laughs anyOf", "(a+)+b", "tokens"])
def test_what_only_looks_bad_is_good(checker: GrammarCheck, name: str) -> None:
    checker.check(ATTACKS[name])


def test_many_values_are_good(checker: GrammarCheck) -> None:
    checker.check(GOOD)


def test_good_grammars_beside_attacks_wait_for_their_turn_alone() -> None:
    errors: list[GrammarError] = []
    with contextlib.closing(GrammarCheck(limit_s=0.5)) as checker:

        def attack() -> None:
            with pytest.raises(GrammarError) as caught:
                checker.check(ATTACKS["multiple of 999,983"])
            errors.append(caught.value)

        thread = threading.Thread(target=attack)
        thread.start()
        count = 0
        while thread.is_alive():
            checker.check(GOOD)
            count += 1
        thread.join()
    assert len(errors) == 1
    assert count >= 3


def test_a_process_that_was_killed_is_replaced(checker: GrammarCheck) -> None:
    checker.check(GOOD)
    process = checker._idle.get()
    assert process is not None
    process.process.kill()
    checker._idle.put(process)
    with pytest.raises(GrammarError):
        checker.check(GOOD)
    checker.check(GOOD)


def test_no_process_is_left_behind() -> None:
    with contextlib.closing(GrammarCheck()) as checker:
        checker.check(GOOD)
        process = checker._idle.get()
        assert process is not None
        checker._idle.put(process)
    with pytest.raises(ProcessLookupError):
        os.kill(process.process.pid, 0)


def test_nothing_starts_before_it_is_needed() -> None:
    checker = GrammarCheck()
    assert [checker._idle.get() for _ in range(2)] == [None, None]


def test_memory_is_bounded() -> None:
    """What would take all memory ends as its caller's error, by time or by memory."""
    rules = "".join(f"R{i}: R{i + 1} R{i + 1} /[a-z]{{{i}}}/\n" for i in range(60))
    bomb = Grammar(lark=f"start: R0\n{rules}R60: /a/\n")
    with (
        contextlib.closing(GrammarCheck(limit_s=5.0)) as checker,
        pytest.raises(GrammarError, match=r"takes more than|too large"),
    ):
        checker.check(bomb)

"""Compiled grammars are kept, within bounds of number and of size."""

from mell_jax.grammar import Grammar, GuideMaker
from mell_jax.grammar.check_child import bytes_table
from mell_jax.grammar.guide import MAX_KEPT, MAX_KEPT_BYTES


def kept(grammars: list[Grammar]) -> list[bool]:
    """Which of them are kept when all were used, one after the other."""
    maker = GuideMaker(bytes_table())
    for grammar in grammars:
        maker.make(grammar, stop_ids=[256], forces=False)
    return [maker.keeps(grammar) for grammar in grammars]


def large(number: int, *, size_bytes: int) -> Grammar:
    note = "x" * size_bytes
    return Grammar(lark=f'start: "a{number}" // {note}\n')


def test_the_last_ones_are_kept() -> None:
    small = [Grammar.from_choice([f"w{i}"]) for i in range(MAX_KEPT + 3)]
    assert kept(small) == [False] * 3 + [True] * MAX_KEPT


def test_large_ones_are_kept_in_smaller_number() -> None:
    size_bytes = MAX_KEPT_BYTES // 5
    many = [large(i, size_bytes=size_bytes) for i in range(9)]
    assert kept(many) == [False] * 5 + [True] * 4


def test_one_that_was_used_again_outlives_others() -> None:
    size_bytes = MAX_KEPT_BYTES // 5
    maker = GuideMaker(bytes_table())
    many = [large(i, size_bytes=size_bytes) for i in range(5)]
    for i in (0, 1, 2, 3, 0, 4):
        maker.make(many[i], stop_ids=[256], forces=False)
    assert [maker.keeps(grammar) for grammar in many] == [True, False, True, True, True]


def test_one_that_cannot_be_compiled_takes_no_room() -> None:
    maker = GuideMaker(bytes_table())
    bad, good = (
        Grammar(lark="start: /(/ // " + "x" * 900_000),
        Grammar(lark='start: "a"'),
    )
    maker.make(good, stop_ids=[256], forces=False)
    for _ in range(6):
        try:
            maker.make(bad, stop_ids=[256], forces=False)
        except ValueError:
            continue
        raise AssertionError("it was compiled")
    assert maker.keeps(good)

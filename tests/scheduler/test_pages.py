"""Reference counts and the stack of free pages always agree with a plain model."""

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mell_jax.scheduler.ids import Pages
from mell_jax.scheduler.pages import OutOfPagesError, PagePool

NUM_PAGES = 8


def pages_of(*ids: int) -> Pages:
    return np.array(ids, np.int32)


def test_the_first_pages_are_handed_out_first_and_scratch_never() -> None:
    pool = PagePool(5)
    assert pool.take(3).tolist() == [3, 2, 1]
    assert pool.take(1).tolist() == [4]
    with pytest.raises(OutOfPagesError, match="1 pages asked for, 0 free"):
        pool.take(1)


def test_taking_too_many_pages_takes_none() -> None:
    pool = PagePool(5)
    with pytest.raises(OutOfPagesError, match="5 pages asked for, 4 free"):
        pool.take(5)
    with pytest.raises(OutOfPagesError):
        pool.take(-1)
    assert pool.num_free == 4
    assert pool.references.tolist() == [0, 0, 0, 0, 0]


def test_taking_no_page_is_allowed_on_a_full_pool() -> None:
    pool = PagePool(2)
    pool.take(1)
    assert pool.take(0).tolist() == []


def test_a_page_is_unused_once_its_last_reference_is_dropped() -> None:
    pool = PagePool(5)
    pages = pool.take(2)
    pool.retain(pages[:1])
    assert pool.drop(pages).tolist() == pages[1:].tolist()
    assert pool.drop(pages[:1]).tolist() == pages[:1].tolist()
    assert pool.num_free == 2, "unused pages are not free until given back"
    pool.give_back(pages)
    assert pool.num_free == 4
    assert sorted(pool.free_pages().tolist()) == [1, 2, 3, 4]


def test_a_page_given_back_last_is_taken_first() -> None:
    pool = PagePool(5)
    pages = pool.take(4)
    pool.drop(pages)
    pool.give_back(pages_of(3, 1))
    pool.give_back(pages_of(4, 2))
    assert pool.take(1).tolist() == [2]
    assert pool.free_pages().tolist() == [3, 1, 4]


def test_dropping_more_than_was_retained_is_a_bug() -> None:
    pool = PagePool(3)
    pages = pool.take(1)
    pool.drop(pages)
    with pytest.raises(AssertionError, match="dropped more than retained"):
        pool.drop(pages)


def test_giving_back_a_page_in_use_is_a_bug() -> None:
    pool = PagePool(3)
    with pytest.raises(AssertionError, match="still referenced"):
        pool.give_back(pool.take(1))


@pytest.mark.parametrize("num_pages", [-1, 0, 1])
def test_a_pool_without_a_page_to_give_is_refused(num_pages: int) -> None:
    with pytest.raises(ValueError, match="a scratch page and at least one more"):
        PagePool(num_pages)


class PagePoolMachine(RuleBasedStateMachine):
    """Holders take, share and drop pages; `holders` is the model."""

    pool_type = PagePool

    def __init__(self) -> None:
        super().__init__()
        self.pool = self.pool_type(NUM_PAGES)
        self.holders: list[list[int]] = []
        self.unused: set[int] = set()  # without references, not given back yet

    @rule(count=st.integers(0, NUM_PAGES))
    def take(self, count: int) -> None:
        free = self.pool.free_pages().tolist()
        if count > len(free):
            with pytest.raises(OutOfPagesError):
                self.pool.take(count)
            assert self.pool.free_pages().tolist() == free
            return
        pages = self.pool.take(count).tolist()
        assert set(pages) <= set(free) and len(set(pages)) == count
        self.holders.append(pages)

    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        if self.holders:
            pages = data.draw(st.sampled_from(self.holders))
            self.pool.retain(pages_of(*pages))
            self.holders.append(list(pages))

    @rule(data=st.data(), gives_back=st.booleans())
    def drop(self, data: st.DataObject, gives_back: bool) -> None:
        if not self.holders:
            return
        index = data.draw(st.integers(0, len(self.holders) - 1))
        pages = self.holders.pop(index)
        held = {page for holder in self.holders for page in holder}
        unused = self.pool.drop(pages_of(*pages)).tolist()
        assert set(unused) == set(pages) - held
        if gives_back:
            self.pool.give_back(pages_of(*unused))
        else:
            self.unused |= set(unused)

    @rule()
    def give_back(self) -> None:
        self.pool.give_back(pages_of(*sorted(self.unused)))
        self.unused = set()

    @invariant()
    def books_balance(self) -> None:
        references = np.zeros(NUM_PAGES, np.int32)
        for holder in self.holders:
            references[holder] += 1
        assert self.pool.references.tolist() == references.tolist()
        free = self.pool.free_pages().tolist()
        assert len(set(free)) == len(free) == self.pool.num_free
        used = set(np.flatnonzero(references).tolist())
        assert sorted([*free, *self.unused, *used]) == list(range(1, NUM_PAGES))


TestPagePool = PagePoolMachine.TestCase
TestPagePool.settings = settings(max_examples=50)


class LeakyPool(PagePool):
    """Forgets one of several pages that are dropped together."""

    def drop(self, pages: Pages) -> Pages:
        return super().drop(pages[1:] if len(pages) > 1 else pages)


def test_the_machine_notices_a_planted_leak() -> None:
    class Leaky(PagePoolMachine):
        pool_type = LeakyPool

    once = settings(database=None, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Leaky, settings=once)

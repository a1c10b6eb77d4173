"""Batches whose pages are granted and whose rows come and go, example by example.

Pages hold 8 tokens.
"""

import numpy as np
import pytest

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.grants import AHEAD_TOKENS
from mell_jax.scheduler.ids import Serial
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.plan import BatchLimits, Sequence
from mell_jax.scheduler.prefix_cache import PrefixCache
from tests.scheduler.fake_device import check_books

SIZE = 8
ONE, TWO = Serial(1), Serial(2)


@pytest.fixture
def batcher() -> Batcher:
    """15 pages, two rows, sequences of at most 64 tokens."""
    return Batcher(
        PrefixCache(PagePool(16)),
        limits=BatchLimits(max_rows=2, token_budget=32, max_tokens=64),
        spec=CacheSpec(page_tokens=SIZE),
    )


def sequence(serial: Serial, *, prompt: int, limit: int = 60) -> Sequence:
    return Sequence(
        serial=serial,
        tokens=np.arange(prompt, dtype=np.int32),
        prompt=prompt,
        limit=limit,
        salt=b"",
        reads_cache=True,
    )


def step(batcher: Batcher, *, token: int = 7) -> list[int]:
    """Serials of the rows that got a token."""
    plan = batcher.plan()
    check_books(batcher)
    if plan is None:
        return []
    live = batcher.commit(plan, np.full(len(plan.slots), token, np.int32))
    return plan.serials[live].tolist()


def computed_when_it_asks(batcher: Batcher, *, wants: int) -> int:
    for _ in range(40):
        if batcher.grants.wanting():
            assert batcher.grants.wanting() == [(ONE, wants)]
            return batcher.sequences.computed(ONE)
        step(batcher)
    raise AssertionError("it never asked")


def test_a_row_asks_for_its_next_page_some_tokens_ahead(batcher) -> None:
    batcher.add(sequence(ONE, prompt=3))
    batcher.grants.grant(ONE, pages=1)
    assert computed_when_it_asks(batcher, wants=2) == SIZE - AHEAD_TOKENS
    batcher.grants.grant(ONE, pages=2)
    assert batcher.grants.wanting() == []
    assert computed_when_it_asks(batcher, wants=3) == 2 * SIZE - AHEAD_TOKENS


def test_a_row_goes_on_to_the_end_of_its_page_and_no_further(batcher) -> None:
    batcher.add(sequence(ONE, prompt=3))
    batcher.grants.grant(ONE, pages=1)
    while step(batcher):
        pass
    assert batcher.sequences.computed(ONE) == SIZE
    batcher.grants.grant(ONE, pages=2)
    assert step(batcher) == [ONE]


def test_a_row_that_will_end_on_its_page_asks_for_nothing(batcher) -> None:
    batcher.add(sequence(ONE, prompt=3, limit=SIZE + 1))
    batcher.grants.grant(ONE, pages=1)
    for _ in range(SIZE - 3):
        assert batcher.grants.wanting() == []
        assert step(batcher) == [ONE]


def test_a_row_that_waits_for_pages_preempts_nobody(batcher) -> None:
    for serial in (ONE, TWO):
        batcher.add(sequence(serial, prompt=3))
        batcher.grants.grant(serial, pages=1)
    while step(batcher):
        pass
    assert (batcher.sequences.computed(ONE), batcher.sequences.computed(TWO)) == (
        SIZE,
        SIZE,
    )
    batcher.grants.grant(TWO, pages=2)
    assert step(batcher) == [TWO]
    assert batcher.sequences.computed(ONE) == SIZE


def test_a_held_row_stands_still_and_has_its_grant_when_it_resumes(batcher) -> None:
    batcher.add(sequence(ONE, prompt=3))
    batcher.grants.grant(ONE, pages=1)
    step(batcher)
    batcher.grants.hold(ONE)
    batcher.grants.grant(ONE, pages=2)
    assert step(batcher) == []
    batcher.grants.resume(ONE)
    for _ in range(2 * SIZE - 3):
        assert step(batcher) == [ONE]
    assert step(batcher) == []


def test_a_row_is_settled_once_its_step_has_been_brought_in(batcher) -> None:
    batcher.add(sequence(ONE, prompt=3))
    batcher.grants.grant(ONE, pages=1)
    plan = batcher.plan()
    batcher.grants.hold(ONE)
    assert not batcher.sequences.is_settled(ONE)
    batcher.commit(plan, np.array([9], np.int32))
    assert batcher.sequences.is_settled(ONE)
    assert batcher.sequences.tokens_since(ONE, 2).tolist() == [2, 9]


def test_a_row_goes_on_where_it_arrives_with_what_came_since(batcher) -> None:
    assert batcher.reservations.reserve(sequence(ONE, prompt=10), pages=2) == 0
    assert step(batcher) == []  # reserved: nothing to compute
    assert len(batcher.sequences.pages_of(ONE)) == 2
    assert batcher.reservations.extend(ONE, positions=17)
    assert len(batcher.sequences.pages_of(ONE)) == 3
    tail = np.array([90, 91], np.int32)
    tokens = batcher.reservations.begin(ONE, computed=11, since=10, tail=tail, pages=3)
    assert tokens.tolist() == [*range(10), 90, 91]
    assert step(batcher, token=92) == [ONE]
    assert batcher.sequences.tokens_since(ONE, 10).tolist() == [90, 91, 92]
    assert batcher.sequences.computed(ONE) == 12


def test_a_reservation_prefills_tokens_and_samples_none(batcher) -> None:
    batcher.reservations.reserve(sequence(ONE, prompt=10), pages=2)
    batcher.reservations.prefill(ONE, np.arange(10, dtype=np.int32), first=0)
    assert step(batcher) == []
    assert batcher.sequences.computed(ONE) == 10
    assert step(batcher) == []  # nothing is left
    batcher.reservations.begin(
        ONE, computed=10, since=10, tail=np.array([90], np.int32), pages=2
    )
    assert step(batcher) == [ONE]


def test_a_reservation_without_room_takes_nothing(batcher) -> None:
    assert batcher.reservations.reserve(sequence(ONE, prompt=10), pages=8) == 0
    assert batcher.reservations.reserve(sequence(TWO, prompt=30), pages=8) is None
    assert batcher.cache.counts.used == 8
    assert batcher.reservations.reserve(sequence(TWO, prompt=30), pages=7) == 0
    assert not batcher.reservations.extend(TWO, positions=7 * SIZE + 1)
    for serial in (ONE, TWO):
        batcher.cancel(serial)
    assert batcher.cache.counts.used == 0


def test_a_cached_prefix_is_shared_with_a_reservation(batcher) -> None:
    batcher.add(sequence(ONE, prompt=20))
    batcher.grants.grant(ONE, pages=4)
    step(batcher)
    assert batcher.reservations.reserve(sequence(TWO, prompt=20), pages=3) == 2 * SIZE
    shared = batcher.sequences.pages_of(TWO)[:2].tolist()
    assert shared == batcher.sequences.pages_of(ONE)[:2].tolist()

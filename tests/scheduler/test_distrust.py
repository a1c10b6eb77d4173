"""Pages whose content went bad stay unfindable, whoever else goes on using them."""

import numpy as np

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import Serial
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.plan import BatchLimits, Sequence
from mell_jax.scheduler.prefix_cache import PrefixCache, page_keys

SIZE = 4
PROMPT = np.arange(10, dtype=np.int32)
KEYS = page_keys(PROMPT, page_tokens=SIZE, salt=b"")


def batcher_of() -> Batcher:
    return Batcher(
        PrefixCache(PagePool(32)),
        limits=BatchLimits(max_rows=4, token_budget=32, max_tokens=64),
        spec=CacheSpec(page_tokens=SIZE),
    )


def add(batcher: Batcher, serial: int) -> None:
    batcher.add(
        Sequence(
            serial=Serial(serial),
            tokens=PROMPT,
            prompt=len(PROMPT),
            limit=60,
            salt=b"",
            reads_cache=True,
        )
    )


def step(batcher: Batcher) -> None:
    plan = batcher.plan()
    assert plan is not None
    batcher.commit(plan, np.full(len(plan.slots), 7, np.int32))


def test_pages_that_are_not_trusted_are_not_offered_again_by_a_row_that_has_them() -> (
    None
):
    batcher = batcher_of()
    add(batcher, 1)
    step(batcher)
    assert len(batcher.cache.match(KEYS)) == 2
    add(batcher, 2)
    step(batcher)
    shared = batcher.sequences.pages_of(Serial(2))[:2].tolist()
    assert shared == batcher.sequences.pages_of(Serial(1))[:2].tolist()
    batcher.cancel(Serial(2), trusted=False)
    assert len(batcher.cache.match(KEYS)) == 0
    for _ in range(3 * SIZE):  # the first row fills pages of its own meanwhile
        step(batcher)
        assert len(batcher.cache.match(KEYS)) == 0


def test_pages_are_found_by_what_was_generated_too() -> None:
    batcher = batcher_of()
    add(batcher, 1)
    for _ in range(1 + 2 * SIZE):
        step(batcher)
    tokens = batcher.sequences.tokens_since(Serial(1), 0)
    assert tokens.tolist() == [*range(10), *[7] * 9]
    keys = page_keys(tokens, page_tokens=SIZE, salt=b"")
    found = batcher.cache.match(keys).tolist()
    assert found == batcher.sequences.pages_of(Serial(1))[:4].tolist()

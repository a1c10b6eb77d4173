"""Behind a prompt that others wait for, so many are looked at and no more."""

import numpy as np
import pytest

from mell_jax.scheduler.batching import MAX_PASSED_OVER, Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.grants import PageGrowth
from mell_jax.scheduler.ids import Serial
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.plan import BatchLimits, Sequence
from mell_jax.scheduler.prefix_cache import PrefixCache

ANOTHER = Serial(1000)


def add(batcher: Batcher, serial: int, *, first: int) -> None:
    """Nine tokens, of which two pages of four can be shared."""
    batcher.add(
        Sequence(
            serial=Serial(serial),
            tokens=np.arange(first, first + 9, dtype=np.int32),
            prompt=9,
            limit=20,
            salt=b"",
            reads_cache=True,
        )
    )


@pytest.mark.parametrize("waiting", [MAX_PASSED_OVER - 1, MAX_PASSED_OVER])
def test_what_is_behind_too_many_that_wait_for_a_prefix_waits_too(waiting: int) -> None:
    batcher = Batcher(
        PrefixCache(PagePool(400)),
        limits=BatchLimits(max_rows=100, token_budget=100, max_tokens=32),
        spec=CacheSpec(page_tokens=4),
    )
    for serial in range(waiting + 1):
        add(batcher, serial, first=0)
    add(batcher, ANOTHER, first=100)
    plan = batcher.plan()
    assert plan is not None
    admitted = [entry.serial for entry in plan.admitted]
    assert admitted == ([0, ANOTHER] if waiting < MAX_PASSED_OVER else [0])
    batcher.commit(plan, np.full(len(plan.slots), 7, np.int32))
    plan = batcher.plan()
    assert plan is not None
    assert {entry.cached for entry in plan.admitted if entry.serial != ANOTHER} == {8}


def test_tokens_that_wait_are_those_of_the_sequences_that_wait() -> None:
    batcher = Batcher(
        PrefixCache(PagePool(8)),
        limits=BatchLimits(max_rows=2, token_budget=32, max_tokens=24),
        spec=CacheSpec(page_tokens=4),
        growth=PageGrowth.PREEMPT,
    )
    for serial, first in ((1, 0), (2, 50)):
        add(batcher, serial, first=first)
    assert (batcher.num_waiting, batcher.waiting_tokens) == (2, 18)
    preempted = 0
    before = batcher.plan()
    for _ in range(30):
        plan = batcher.plan()  # one ahead, so that a token is on its way
        if before is not None:
            batcher.commit(before, np.full(len(before.slots), 7, np.int32))
        before = plan
        waiting = [
            serial
            for serial in (1, 2)
            if batcher.knows(Serial(serial))
            and Serial(serial) not in batcher.sequences.running
        ]
        tokens = [len(batcher.sequences.tokens_since(Serial(s), 0)) for s in waiting]
        assert batcher.waiting_tokens == sum(tokens)
        preempted += plan is not None and bool(plan.preempted)
    assert preempted

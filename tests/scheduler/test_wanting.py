"""Who asks for pages does so whatever stands in the rows before it."""

import numpy as np

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import Serial
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.plan import BatchLimits, Sequence
from mell_jax.scheduler.prefix_cache import PrefixCache

SIZE = 8


def sequence(serial: int, *, prompt: int, limit: int = 60) -> Sequence:
    return Sequence(
        serial=Serial(serial),
        tokens=np.full(prompt, serial, np.int32),
        prompt=prompt,
        limit=limit,
        salt=b"",
        reads_cache=True,
    )


def test_reservations_and_rows_that_want_nothing_do_not_hide_those_behind() -> None:
    batcher = Batcher(
        PrefixCache(PagePool(32)),
        limits=BatchLimits(max_rows=4, token_budget=32, max_tokens=64),
        spec=CacheSpec(page_tokens=SIZE),
    )
    assert batcher.reservations.reserve(sequence(1, prompt=6), pages=1) == 0
    batcher.add(sequence(2, prompt=6, limit=SIZE + 1))  # it ends on its page
    batcher.add(sequence(3, prompt=6))
    batcher.add(sequence(4, prompt=6))
    for serial, pages in ((2, 1), (3, 1), (4, 3)):
        batcher.grants.grant(Serial(serial), pages=pages)
    plan = batcher.plan()
    assert plan is not None
    batcher.commit(plan, np.full(len(plan.slots), 7, np.int32))
    assert list(batcher.sequences.running.values()) == [0, 1, 2, 3]
    assert batcher.grants.wanting() == [(3, 2)]
    batcher.grants.grant(Serial(3), pages=2)
    assert batcher.grants.wanting() == []

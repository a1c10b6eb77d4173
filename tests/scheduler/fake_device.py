"""A device in NumPy: tokens come from what the pages hold, read as the plan says.

The next token is a weighted sum of all tokens so far, so that a wrong page, a stale
copy or two tokens in the wrong order change it. Pages start with garbage.
"""

from collections.abc import Sequence as List

import numpy as np

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.plan import StepPlan

PRIME = 10007
GARBAGE = -(10**6)


def next_token(tokens: np.ndarray) -> int:
    return int((tokens * np.arange(3, len(tokens) + 3)).sum() % PRIME)


def continuation(prompt: List[int], *, count: int) -> list[int]:
    """The `count` tokens that follow `prompt`."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(np.array(tokens, np.int64)))
    return tokens[len(prompt) :]


class FakeDevice:
    """Pages of tokens and the newest token of each slot."""

    def __init__(self, *, num_pages: int, page_tokens: int, num_slots: int) -> None:
        self.pages = np.full((num_pages, page_tokens), GARBAGE, np.int64)
        self.last_token = np.zeros(num_slots, np.int64)
        self.page_tokens = page_tokens

    def run(self, plan: StepPlan) -> np.ndarray:
        """Computes a step; [b] tokens, garbage for rows that do not sample."""
        for entry in plan.admitted:
            self.last_token[entry.slot] = GARBAGE
        source = self.last_token[plan.slots[plan.owners]]
        tokens = np.where(plan.token_ids < 0, source, plan.token_ids)
        page = plan.page_table[plan.owners, plan.positions // self.page_tokens]
        assert (page > 0).all(), "a token was sent to the scratch page"
        self.pages[page, plan.positions % self.page_tokens] = tokens
        sampled = np.full(len(plan.slots), GARBAGE, np.int64)
        for row in np.flatnonzero(plan.samples):
            held = self.pages[plan.page_table[row]].reshape(-1)
            sampled[row] = next_token(held[: plan.kv_lens[row]])
        self.last_token[plan.slots] = sampled
        return np.where(plan.samples, sampled, 0).astype(np.int32)


def check_plan(batcher: Batcher, plan: StepPlan, *, max_rows: int, budget: int) -> None:
    """A plan keeps its limits and writes only to pages of its own."""
    assert 1 <= len(plan.slots) <= max_rows
    assert len(set(plan.slots.tolist())) == len(plan.slots)
    assert len(plan.slots) <= plan.num_tokens == plan.q_lens.sum() <= budget
    assert (plan.q_lens >= 1).all()
    assert len({*(entry.serial for entry in plan.admitted)} & {*plan.preempted}) == 0
    size = batcher.rows.page_tokens
    written = plan.page_table[plan.owners, plan.positions // size]
    pairs = {*zip(written.tolist(), plan.owners.tolist(), strict=True)}
    assert len(pairs) == len(set(written.tolist())), "a page with two writers"
    references = batcher.cache._pool.references
    assert (references[written] == 1).all(), "a shared page is written to"


def check_books(batcher: Batcher) -> None:
    """Every page is used by the rows that list it, cached or free."""
    rows, counts = batcher.rows, batcher.cache.counts
    slots = np.flatnonzero(rows.active)
    held = np.arange(rows.max_pages) < rows.num_pages[:, None]  # [slots, M]
    listed = rows.page_table[held]
    assert (listed > 0).all(), "the scratch page was handed out"
    assert not rows.page_table[~held].any()
    references = np.bincount(listed, minlength=counts.total + 1)
    assert batcher.cache._pool.references.tolist() == references.tolist()
    assert counts.used == np.count_nonzero(references)
    assert counts.free + counts.cached + counts.used == counts.total
    assert batcher.num_running == len(slots)
    known, total = rows.known[slots], rows.total[slots]
    assert ((rows.computed[slots] < total) & (known <= total)).all()
    assert (total <= rows.limit[slots]).all()

"""A device in NumPy: tokens come from what the pages hold, read as the plan says.

The next token is a weighted sum of the tokens that each group of layers sees, so that a
wrong page, a stale copy or two tokens in the wrong order change it. Pages start with
garbage, and what a row may see has to be of its positions.
"""

from collections.abc import Sequence as List

import numpy as np

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.plan import StepPlan

PRIME = 10007
GARBAGE = -(10**6)
Windows = tuple[int | None, ...]


def next_token(tokens: np.ndarray, windows: Windows = (None,)) -> int:
    weights, total = np.arange(3, len(tokens) + 3), 0
    for group, window in enumerate(windows):
        first = 0 if window is None else max(len(tokens) - window, 0)
        total += (group + 1) * int((tokens * weights)[first:].sum())
    return total % PRIME


def continuation(
    prompt: List[int], *, count: int, windows: Windows = (None,)
) -> list[int]:
    """The `count` tokens that follow `prompt`."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(np.array(tokens, np.int64), windows))
    return tokens[len(prompt) :]


class FakeDevice:
    """Pages of tokens and the newest token of each slot."""

    def __init__(self, *, num_pages: int, spec: CacheSpec, num_slots: int) -> None:
        self.pages = np.full((num_pages, spec.page_tokens), GARBAGE, np.int64)
        self.written = np.full((num_pages, spec.page_tokens), GARBAGE, np.int64)
        self.last_token = np.zeros(num_slots, np.int64)
        self.spec = spec
        self.windows = tuple(group.window for group in spec.groups)

    def run(self, plan: StepPlan) -> np.ndarray:
        """Computes a step; [b] tokens, garbage for rows that do not sample."""
        for entry in plan.admitted:
            self.last_token[entry.slot] = GARBAGE
        source = self.last_token[plan.slots[plan.owners]]
        tokens = np.where(plan.token_ids < 0, source, plan.token_ids)
        along, offset = np.divmod(plan.positions, self.spec.page_tokens)
        for table in plan.page_table:
            page = table[plan.owners, along]
            assert (page > 0).all(), "a token was sent to the scratch page"
            self.pages[page, offset] = tokens
            self.written[page, offset] = plan.positions
        self._check_seen(plan)
        sampled = np.full(len(plan.slots), GARBAGE, np.int64)
        for row in np.flatnonzero(plan.samples):
            sampled[row] = self._sample(plan, row)
        self.last_token[plan.slots] = sampled
        return np.where(plan.samples, sampled, 0).astype(np.int32)

    def _check_seen(self, plan: StepPlan) -> None:
        """All that a query of the step sees is there, at its position."""
        for row, (start, end) in enumerate(
            zip(plan.starts.tolist(), plan.kv_lens.tolist(), strict=True)
        ):
            for table, window in zip(plan.page_table, self.windows, strict=True):
                first = 0 if window is None else max(start - window + 1, 0)
                at = self.written[table[row]].reshape(-1)[first:end]
                assert at.tolist() == list(range(first, end)), "a page is not there"

    def _sample(self, plan: StepPlan, row: int) -> int:
        length, total = int(plan.kv_lens[row]), 0
        weights = np.arange(3, length + 3)
        for group, (table, window) in enumerate(
            zip(plan.page_table, self.windows, strict=True)
        ):
            first = 0 if window is None else max(length - window, 0)
            held = self.pages[table[row]].reshape(-1)[:length]
            total += (group + 1) * int((held * weights)[first:].sum())
        return total % PRIME


def check_plan(batcher: Batcher, plan: StepPlan, *, max_rows: int, budget: int) -> None:
    """A plan keeps its limits and writes only to pages of its own."""
    assert 1 <= len(plan.slots) <= max_rows
    assert len(set(plan.slots.tolist())) == len(plan.slots)
    assert len(plan.slots) <= plan.num_tokens == plan.q_lens.sum() <= budget
    assert (plan.q_lens >= 1).all()
    assert len({*(entry.serial for entry in plan.admitted)} & {*plan.preempted}) == 0
    size = batcher.rows.page_tokens
    references = batcher.cache._pool.references
    pairs: set[tuple[int, ...]] = set()
    for group, table in enumerate(plan.page_table):
        written = table[plan.owners, plan.positions // size]
        groups = np.full(len(written), group)
        pairs |= {*zip(written.tolist(), plan.owners.tolist(), groups, strict=True)}
        assert (references[written] == 1).all(), "a shared page is written to"
    assert len(pairs) == len({page for page, *_ in pairs}), "a page with two writers"


def check_books(batcher: Batcher) -> None:
    """Every page is used by the rows that list it, cached or free."""
    rows, counts = batcher.rows, batcher.cache.counts
    slots = np.flatnonzero(rows.active)
    table, spec = rows.pages.table, rows.pages.spec
    along = np.arange(rows.pages.max_pages)
    held = (along >= rows.pages.first[:, :, None]) & (
        along < rows.pages.end[:, :, None]
    )
    listed = table[held]
    assert (listed > 0).all(), "the scratch page was handed out"
    assert not table[~held].any()
    for group, each in enumerate(spec.groups):
        assert each.ring is None or (held[group].sum(-1) <= each.ring).all()
    references = np.bincount(listed, minlength=counts.total + 1)
    assert batcher.cache._pool.references.tolist() == references.tolist()
    assert counts.used == np.count_nonzero(references)
    assert counts.free + counts.cached + counts.used == counts.total
    assert batcher.num_running == len(slots)
    known, total = rows.known[slots], rows.total[slots]
    assert ((rows.computed[slots] < total) & (known <= total)).all()
    assert (total <= rows.limit[slots]).all()

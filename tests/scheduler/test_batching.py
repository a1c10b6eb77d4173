"""What a step takes and in which order, example by example.

Pages hold 4 tokens. A plan reads as {serial: tokens computed}.
"""

import numpy as np
import pytest

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.grants import PageGrowth
from mell_jax.scheduler.ids import Serial
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.plan import BatchLimits, Sequence, StepPlan
from mell_jax.scheduler.prefix_cache import PrefixCache
from tests.scheduler.fake_device import check_books

SIZE = 4


def batcher_of(
    *, pages: int = 16, rows: int = 4, budget: int = 16, shares: bool = True
) -> Batcher:
    """`pages` without the scratch page; sequences of at most 32 tokens."""
    return Batcher(
        PrefixCache(PagePool(pages + 1)),
        limits=BatchLimits(
            max_rows=rows, token_budget=budget, max_tokens=min(32, pages * SIZE)
        ),
        spec=CacheSpec(page_tokens=SIZE),
        shares_prefixes=shares,
        growth=PageGrowth.PREEMPT,
    )


def add(
    batcher: Batcher,
    serial: int,
    *,
    prompt: int | list[int],
    limit: int | None = None,
    salt: bytes = b"",
    reads_cache: bool = True,
) -> None:
    """Adds tokens `prompt`, or as many tokens that nobody else has."""
    if isinstance(prompt, int):
        prompt = list(range(1000 * serial, 1000 * serial + prompt))
    batcher.add(
        Sequence(
            serial=Serial(serial),
            tokens=np.array(prompt, np.int32),
            prompt=len(prompt),
            limit=len(prompt) + 8 if limit is None else limit,
            salt=salt,
            reads_cache=reads_cache,
        )
    )


def plan_of(batcher: Batcher) -> StepPlan:
    plan = batcher.plan()
    check_books(batcher)
    assert plan is not None
    return plan


def chunks(plan: StepPlan) -> dict[int, int]:
    return dict(zip(plan.serials.tolist(), plan.q_lens.tolist(), strict=True))


def cached(plan: StepPlan) -> dict[int, int]:
    return {entry.serial: entry.cached for entry in plan.admitted}


def land(batcher: Batcher, plan: StepPlan, token: int = 7) -> list[int]:
    """Commits a step in which every row sampled `token`; serials that got it."""
    live = batcher.commit(plan, np.full(len(plan.slots), token, np.int32))
    check_books(batcher)
    return plan.serials[live].tolist()


def step(batcher: Batcher) -> dict[int, int]:
    """Plans and commits at once."""
    plan = plan_of(batcher)
    land(batcher, plan)
    return chunks(plan)


def test_a_prompt_is_computed_and_then_one_token_a_step_until_its_limit() -> None:
    batcher = batcher_of()
    add(batcher, 1, prompt=5, limit=8)
    assert [step(batcher) for _ in range(3)] == [{1: 5}, {1: 1}, {1: 1}]
    assert batcher.plan() is None
    slot = batcher.sequences.running[Serial(1)]
    assert batcher.rows.known_tokens(slot).tolist()[5:] == [7, 7, 7]
    batcher.cancel(Serial(1))
    assert batcher.is_empty


def test_a_long_prompt_goes_in_chunks_and_samples_once() -> None:
    batcher = batcher_of(budget=6)
    add(batcher, 1, prompt=14)
    plans = [plan_of(batcher) for _ in range(3)]
    assert [chunks(plan) for plan in plans] == [{1: 6}, {1: 6}, {1: 2}]
    assert [plan.starts.tolist() for plan in plans] == [[0], [6], [12]]
    assert [plan.samples.tolist() for plan in plans] == [[False], [False], [True]]
    assert plans[1].positions.tolist() == [6, 7, 8, 9, 10, 11]
    assert plans[1].token_ids.tolist() == [1006, 1007, 1008, 1009, 1010, 1011]
    assert [land(batcher, plan) for plan in plans] == [[], [], [1]]


def test_a_token_still_on_the_device_is_planned_as_unknown() -> None:
    batcher = batcher_of()
    add(batcher, 1, prompt=4)
    first = plan_of(batcher)
    second = plan_of(batcher)
    assert (second.token_ids.tolist(), second.positions.tolist()) == ([-1], [4])
    assert second.is_decode and not first.is_decode
    land(batcher, first, token=42)
    land(batcher, second, token=43)
    assert plan_of(batcher).token_ids.tolist() == [43]


def test_decodes_go_first_then_old_prompts_then_new_ones() -> None:
    batcher = batcher_of(budget=8)
    add(batcher, 1, prompt=4)
    step(batcher)
    add(batcher, 2, prompt=10)
    add(batcher, 3, prompt=3)
    assert step(batcher) == {1: 1, 2: 7}
    plan = plan_of(batcher)
    assert chunks(plan) == {1: 1, 2: 3, 3: 3}
    assert plan.serials.tolist() == [1, 2, 3]
    assert plan.owners.tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert plan.samples.tolist() == [True, True, True]


def test_sequences_wait_for_a_row() -> None:
    batcher = batcher_of(rows=2)
    for serial in (1, 2, 3):
        add(batcher, serial, prompt=2)
    assert step(batcher) == {1: 2, 2: 2}
    assert (batcher.num_running, batcher.num_waiting) == (2, 1)
    assert batcher.waiting_tokens == 2
    batcher.cancel(Serial(1))
    assert step(batcher) == {2: 1, 3: 2}


def test_sequences_wait_for_pages_in_the_order_they_came() -> None:
    batcher = batcher_of(pages=6)
    add(batcher, 1, prompt=14)  # 4 pages
    add(batcher, 2, prompt=8)  # 2 pages, and one has to stay for sequence 1
    add(batcher, 3, prompt=2)  # would fit
    assert step(batcher) == {1: 14}
    assert step(batcher) == {1: 1}
    batcher.cancel(Serial(1))
    assert step(batcher) == {2: 8, 3: 2}


def fill_with_two(batcher: Batcher) -> None:
    """Sequences 1 and 2 hold 2 pages each of 5, all full: 7 prompt tokens + 1."""
    add(batcher, 1, prompt=7, limit=16)
    add(batcher, 2, prompt=7, limit=16)
    assert step(batcher) == {1: 7, 2: 7}
    assert step(batcher) == {1: 1, 2: 1}
    assert batcher.cache.num_available == 1


def test_the_newest_is_preempted_and_keeps_its_tokens_at_the_head() -> None:
    batcher = batcher_of(pages=5, shares=False)
    fill_with_two(batcher)
    add(batcher, 3, prompt=1)
    plan = plan_of(batcher)
    assert plan.preempted == (2,)
    assert chunks(plan) == {1: 1}, "nobody is admitted in a step that preempts"
    assert batcher.num_waiting == 2
    land(batcher, plan)
    plan = plan_of(batcher)  # 1 runs, 2 needs 3 pages of 2: nobody overtakes it
    assert chunks(plan) == {1: 1} and batcher.num_waiting == 2
    land(batcher, plan)
    batcher.cancel(Serial(1))
    plan = plan_of(batcher)
    assert chunks(plan) == {2: 9, 3: 1}
    assert plan.token_ids.tolist()[:9] == [*range(2000, 2007), 7, 7]


def preempt_with_a_token_on_its_way(batcher: Batcher) -> StepPlan:
    """Sequence 2 loses its slot; the step that samples its token 8 is answered."""
    add(batcher, 1, prompt=7, limit=16)
    add(batcher, 2, prompt=7, limit=16)
    step(batcher)
    on_its_way = plan_of(batcher)
    after = plan_of(batcher)  # both need a third page, one is left
    assert (chunks(after), after.preempted) == ({1: 1}, (2,))
    return on_its_way


def test_a_token_on_its_way_reaches_its_preempted_sequence() -> None:
    batcher = batcher_of(pages=5, shares=False)
    on_its_way = preempt_with_a_token_on_its_way(batcher)
    assert land(batcher, on_its_way, token=99) == [1, 2]
    batcher.cancel(Serial(1))
    plan = plan_of(batcher)
    assert chunks(plan) == {2: 9}
    assert plan.token_ids.tolist() == [*range(2000, 2007), 7, 99]


def test_nobody_overtakes_a_preempted_sequence_whose_token_is_on_its_way() -> None:
    batcher = batcher_of(pages=5, shares=False)
    on_its_way = preempt_with_a_token_on_its_way(batcher)
    batcher.cancel(Serial(1))
    add(batcher, 3, prompt=1)
    assert batcher.plan() is None
    assert land(batcher, on_its_way) == [2]
    assert step(batcher) == {2: 9, 3: 1}


def test_a_sequence_with_nothing_left_to_compute_is_preempted_before_the_newest() -> (
    None
):
    batcher = batcher_of(pages=4, shares=False)
    add(batcher, 1, prompt=3, limit=9)
    add(batcher, 2, prompt=3, limit=16)
    for _ in range(5):
        step(batcher)
    last = plan_of(batcher)  # 1 samples its last token, 9; both have 2 full pages
    after = plan_of(batcher)
    assert (chunks(after), after.preempted) == ({2: 1}, (1,))
    assert land(batcher, last) == [1, 2]


def test_equal_prompts_wait_for_the_first_ones_pages() -> None:
    batcher = batcher_of(rows=8, pages=32)
    prompt = list(range(10))
    for serial in (1, 2, 3):
        add(batcher, serial, prompt=prompt)
    add(batcher, 4, prompt=3)
    first = plan_of(batcher)
    assert chunks(first) == {1: 10, 4: 3}, "4 passes those that wait for a prefix"
    assert chunks(plan_of(batcher)) == {1: 1, 4: 1}
    land(batcher, first)
    third = plan_of(batcher)
    assert cached(third) == {2: 8, 3: 8}
    assert chunks(third) == {1: 1, 4: 1, 2: 2, 3: 2}
    shared = third.page_table[0, :, :2].tolist()
    assert shared[0] == shared[2] == shared[3]


def test_a_waiting_twin_computes_itself_when_the_first_one_leaves() -> None:
    batcher = batcher_of()
    add(batcher, 1, prompt=list(range(10)))
    add(batcher, 2, prompt=list(range(10)))
    first = plan_of(batcher)
    batcher.cancel(Serial(1))
    assert chunks(plan_of(batcher)) == {2: 10}
    assert land(batcher, first) == []


@pytest.mark.parametrize(
    ("length", "found"), [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (10, 8)]
)
def test_the_last_token_of_a_prompt_is_always_computed(length: int, found: int) -> None:
    batcher = batcher_of()
    add(batcher, 1, prompt=list(range(12)))
    step(batcher)
    add(batcher, 2, prompt=list(range(length)))
    assert cached(plan_of(batcher)) == {2: found}


def test_generated_tokens_are_found_too() -> None:
    batcher = batcher_of()
    add(batcher, 1, prompt=[1, 2, 3])
    for _ in range(6):
        step(batcher)
    batcher.cancel(Serial(1))
    add(batcher, 2, prompt=[1, 2, 3, 7, 7, 7, 7, 7, 7])
    assert cached(plan_of(batcher)) == {2: 8}


def test_another_salt_shares_nothing() -> None:
    batcher = batcher_of()
    prompt = list(range(9))
    add(batcher, 1, prompt=prompt, salt=b"a")
    add(batcher, 2, prompt=prompt, salt=b"b")
    add(batcher, 3, prompt=prompt, salt=b"a")
    assert step(batcher) == {1: 9, 2: 7}
    assert cached(plan_of(batcher)) == {3: 8}


def test_a_sequence_that_does_not_read_the_cache_computes_all_and_shares_it() -> None:
    batcher = batcher_of(budget=32)
    prompt = list(range(9))
    add(batcher, 1, prompt=prompt)
    add(batcher, 2, prompt=prompt, reads_cache=False)
    plan = plan_of(batcher)
    assert chunks(plan) == {1: 9, 2: 9}
    assert set(plan.page_table[0, 0, :3]) & set(plan.page_table[0, 1, :3]) == set()
    land(batcher, plan)
    batcher.cancel(Serial(1))
    batcher.cancel(Serial(2))
    add(batcher, 3, prompt=prompt)
    assert cached(plan_of(batcher)) == {3: 8}


def test_nothing_is_shared_when_sharing_is_off() -> None:
    batcher = batcher_of(shares=False, budget=32)
    add(batcher, 1, prompt=list(range(9)))
    add(batcher, 2, prompt=list(range(9)))
    assert step(batcher) == {1: 9, 2: 9}
    assert batcher.cache.counts.cached == 0


def test_cancelling_a_waiting_sequence_forgets_it() -> None:
    batcher = batcher_of()
    add(batcher, 1, prompt=4)
    batcher.cancel(Serial(1))
    assert batcher.is_empty and not batcher.knows(Serial(1))
    assert batcher.plan() is None


def test_cancelling_a_running_sequence_frees_its_pages_at_once() -> None:
    batcher = batcher_of(shares=False)
    add(batcher, 1, prompt=9)
    plan = plan_of(batcher)
    assert batcher.cache.counts.used == 3
    batcher.cancel(Serial(1))
    assert batcher.cache.counts.used == 0
    add(batcher, 2, prompt=9)
    reused = plan_of(batcher)
    assert reused.slots.tolist() == plan.slots.tolist(), "the same slot, at once"
    assert land(batcher, plan) == [], "its result is nobody's"
    assert land(batcher, reused) == [2]


def test_cancelling_a_preempted_sequence_drops_the_token_on_its_way() -> None:
    batcher = batcher_of(pages=5, shares=False)
    on_its_way = preempt_with_a_token_on_its_way(batcher)
    batcher.cancel(Serial(2))
    assert land(batcher, on_its_way) == [1]
    assert batcher.num_waiting == 0


def test_bad_content_is_not_published_and_can_be_made_unfindable() -> None:
    batcher = batcher_of()
    add(batcher, 1, prompt=list(range(9)))
    assert land(batcher, plan_of(batcher), token=-1) == []
    assert batcher.cache.match(batcher.sequences._keys[Serial(1)]).tolist() == []
    batcher.cancel(Serial(1), trusted=False)
    add(batcher, 2, prompt=list(range(9)))
    step(batcher)
    keys = list(batcher.sequences._keys[Serial(2)])
    assert len(batcher.cache.match(keys)) == 2
    batcher.cancel(Serial(2), trusted=False)
    assert len(batcher.cache.match(keys)) == 0


def test_a_preempted_sequence_that_went_bad_leaves_no_page_behind() -> None:
    batcher = batcher_of(pages=5)
    on_its_way = preempt_with_a_token_on_its_way(batcher)
    keys = list(batcher.sequences._keys[Serial(2)])
    assert len(batcher.cache.match(keys)) == 1
    batcher.commit(on_its_way, np.array([7, -1], np.int32))
    batcher.cancel(Serial(2), trusted=False)
    assert len(batcher.cache.match(keys)) == 0
    check_books(batcher)


def test_a_pool_too_small_for_one_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="3 pages of 4 tokens cannot hold one"):
        Batcher(
            PrefixCache(PagePool(4)),
            limits=BatchLimits(max_rows=1, token_budget=1, max_tokens=13),
            spec=CacheSpec(page_tokens=SIZE),
        )


@pytest.mark.parametrize(("rows", "budget"), [(0, 4), (5, 4), (-1, 4)])
def test_a_budget_that_cannot_decode_all_rows_is_refused(
    rows: int, budget: int
) -> None:
    with pytest.raises(ValueError, match="token_budget"):
        BatchLimits(max_rows=rows, token_budget=budget, max_tokens=8)

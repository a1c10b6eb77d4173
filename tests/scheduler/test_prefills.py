"""How the tokens of a step are divided among tenants."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.fair_queue import NOBODY, Tenant
from mell_jax.scheduler.ids import Serial
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.plan import BatchLimits, Sequence
from mell_jax.scheduler.prefills import Want, divide
from mell_jax.scheduler.prefix_cache import PrefixCache


def parts(budget: int, **wants: int) -> dict[str, int]:
    return divide(
        budget, wants={name: Want(tokens=n, weight=1.0) for name, n in wants.items()}
    )


def test_what_a_tenant_leaves_is_for_the_others() -> None:
    assert parts(60, a=100, b=10, c=100) == {"a": 25, "b": 10, "c": 25}
    assert parts(60, a=20, b=10) == {"a": 20, "b": 10}
    assert parts(0, a=20, b=10) == {"a": 0, "b": 0}
    assert parts(5) == {}
    dear = Want(tokens=100, weight=3.0)
    assert divide(40, wants={"a": dear, "b": Want(tokens=100, weight=1.0)}) == {
        "a": 30,
        "b": 10,
    }


@given(
    budget=st.integers(0, 200),
    wants=st.dictionaries(
        st.text(max_size=2),
        st.tuples(st.integers(0, 200), st.sampled_from([0.5, 1.0, 3.0])),
        max_size=5,
    ),
)
def test_no_tenant_with_less_than_it_wants_has_less_than_others_for_its_weight(
    budget: int, wants: dict[str, tuple[int, float]]
) -> None:
    found = divide(
        budget, wants={n: Want(tokens=t, weight=w) for n, (t, w) in wants.items()}
    )
    assert set(found) == set(wants)
    left = budget - sum(found.values())
    assert left >= 0
    hungry = [name for name in wants if found[name] < wants[name][0]]
    assert not hungry or left < len(wants) + 1
    for name in hungry:
        most = max(found[other] / wants[other][1] for other in wants)
        assert (found[name] + 1) / wants[name][1] >= most - 1e-9
    assert all(found[name] <= wants[name][0] for name in wants)


SIZE, ROWS, BUDGET = 4, 4, 16


def batcher_of(
    *prompts: tuple[int, Tenant], pages: int = 64, mixed_tokens: tuple[int, ...] = ()
) -> Batcher:
    batcher = Batcher(
        PrefixCache(PagePool(pages + 1)),
        limits=BatchLimits(
            max_rows=ROWS,
            token_budget=BUDGET,
            max_tokens=100,
            mixed_tokens=mixed_tokens,
        ),
        spec=CacheSpec(page_tokens=SIZE),
    )
    for serial, (prompt, tenant) in enumerate(prompts):
        add(batcher, serial, prompt=prompt, tenant=tenant)
    return batcher


def add(batcher: Batcher, serial: int, *, prompt: int, tenant: Tenant) -> None:
    tokens = np.arange(1000 * serial, 1000 * serial + prompt, dtype=np.int32)
    batcher.add(
        Sequence(
            serial=Serial(serial),
            tokens=tokens,
            prompt=prompt,
            limit=prompt + 8,
            tenant=tenant,
        )
    )


def step(batcher: Batcher) -> dict[int, int]:
    plan = batcher.plan()
    assert plan is not None
    batcher.commit(plan, np.full(len(plan.slots), 7, np.int32))
    return dict(zip(plan.serials.tolist(), plan.q_lens.tolist(), strict=True))


HEAVY, LIGHT = Tenant(name="heavy"), Tenant(name="light")


def test_long_prompts_of_one_tenant_do_not_hold_up_another_s_short_one() -> None:
    batcher = batcher_of((64, HEAVY), (64, HEAVY), (8, LIGHT))
    assert step(batcher) == {0: 8, 2: 8}
    batcher = batcher_of((64, NOBODY), (64, NOBODY), (8, NOBODY))
    assert step(batcher) == {0: 16}  # first come, first served


def test_a_prompt_that_comes_later_gets_its_part_as_well() -> None:
    batcher = batcher_of((64, HEAVY), (64, HEAVY))
    assert step(batcher) == {0: 16}
    add(batcher, 2, prompt=12, tenant=LIGHT)
    assert step(batcher) == {0: 8, 2: 8}
    assert step(batcher) == {0: 12, 2: 4}
    assert step(batcher) == {2: 1, 0: 15}


def test_what_parts_leave_goes_to_the_oldest() -> None:
    batcher = batcher_of((64, HEAVY), (3, LIGHT))
    assert step(batcher) == {0: 13, 1: 3}
    third = Tenant(name="third")
    batcher = batcher_of((64, HEAVY), (64, LIGHT), (64, third))
    assert step(batcher) == {0: 6, 1: 5, 2: 5}


def test_rows_are_given_in_turns() -> None:
    batcher = batcher_of(*[(2, HEAVY)] * 6, (2, LIGHT), (2, LIGHT))
    assert set(step(batcher)) == {0, 1, 6, 7}


def test_a_prompt_without_pages_is_passed_by_another_tenant_s() -> None:
    batcher = batcher_of((60, HEAVY), (90, HEAVY), (4, LIGHT), pages=25)
    taken = step(batcher)
    assert set(taken) == {0, 2}  # 15 pages and 1; 1 wants 23
    assert batcher.num_waiting == 1


def test_a_cancelled_sequence_leaves_the_queue_in_order() -> None:
    batcher = batcher_of(*[(2, HEAVY)] * 4, *[(2, LIGHT)] * 3)
    batcher.cancel(Serial(0))
    batcher.cancel(Serial(5))
    assert batcher.num_waiting == 5 and batcher.waiting_tokens == 10
    assert set(step(batcher)) == {1, 2, 4, 6}
    assert batcher.waiting_tokens == 2


def test_a_short_prompt_computes_alone_where_it_would_make_the_step_a_large_one() -> (
    None
):
    batcher = batcher_of((2, NOBODY), (2, NOBODY), mixed_tokens=(8, 300))
    assert step(batcher) == {0: 2, 1: 2}
    add(batcher, 2, prompt=7, tenant=NOBODY)
    assert step(batcher) == {2: 7}  # 9 together
    assert step(batcher) == {0: 1, 1: 1, 2: 1}
    add(batcher, 3, prompt=5, tenant=NOBODY)
    assert step(batcher) == {0: 1, 1: 1, 2: 1, 3: 5}  # 8 together


def test_a_prompt_in_chunks_takes_turns_with_those_that_decode() -> None:
    batcher = batcher_of((2, NOBODY), (2, NOBODY), mixed_tokens=(14, 300))
    step(batcher)
    add(batcher, 2, prompt=28, tenant=NOBODY)
    assert step(batcher) == {2: 14}  # 16 is the budget, with two that decode
    assert step(batcher) == {0: 1, 1: 1}
    assert step(batcher) == {2: 14}
    assert step(batcher) == {0: 1, 1: 1, 2: 1}


def test_the_first_token_of_who_has_less_than_its_part_pays_for_no_other_rows() -> None:
    batcher = batcher_of(*[(2, HEAVY)] * 3, mixed_tokens=(8, 16))
    assert step(batcher) == {0: 2, 1: 2, 2: 2}
    add(batcher, 3, prompt=4, tenant=LIGHT)
    assert step(batcher) == {3: 4}
    assert step(batcher) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_a_part_of_the_rows_is_by_weight() -> None:
    heavy = Tenant(name="heavy", weight=3.0)
    batcher = batcher_of(*[(2, heavy)] * 3, mixed_tokens=(8, 16))
    step(batcher)
    add(batcher, 3, prompt=4, tenant=LIGHT)
    assert step(batcher) == {0: 1, 1: 1, 2: 1, 3: 4}  # a row of four is its part

"""What links and prefill have in one epoch: 100 bytes and 32 tokens, in pages of 10
bytes and 4 tokens; so a link carries ten pages and an instance computes eight."""

import math

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.budget import Budget
from tests.scheduler.policies.layout import lay_out

SPEC = ModelSpec(capacity_pages=100, page_bytes=10.0, page_tokens=4)


def budget_of(*, link: float = 50.0, prefill: float = 16.0) -> Budget:
    """Rates, for epochs of two seconds."""
    return Budget(
        PolicyConfig(link_bytes_per_s=link, prefill_tokens_per_s=prefill, epoch_s=2.0)
    )


def move(draft: Draft, *moves: tuple[int, int]) -> Draft:
    """Shifts requests: number, target."""
    draft.rollback()
    for request, target in moves:
        draft.shift(draft.ledger.requests[RequestId(request)], DeviceGroupId(target))
    return draft


def picture() -> Draft:
    return lay_out([10, 1, 8, 9], [10, 2], [9], [], spec=SPEC)


def test_a_link_carries_ten_pages_and_then_eight_are_computed() -> None:
    draft, budget = picture(), budget_of()
    assert budget.take(move(draft, (0, 3)))
    assert budget.take(move(draft, (2, 3)))  # out of d0 nothing goes any more
    assert not budget.take(move(draft, (1, 3)))
    assert budget.take(move(draft, (1, 2)))  # another instance may compute it


def test_both_ends_of_a_move_are_used() -> None:
    nothing_computed = budget_of(prefill=1e-9)
    draft = picture()
    assert nothing_computed.take(move(draft, (0, 3)))
    assert not nothing_computed.take(move(draft, (1, 2)))  # out of d0
    assert not nothing_computed.take(move(draft, (5, 3)))  # into d3
    assert nothing_computed.take(move(draft, (4, 0)))  # the other directions


def test_what_is_too_much_takes_nothing() -> None:
    draft, budget = picture(), budget_of(prefill=1e-9)
    assert not budget.take(move(draft, (3, 1), (5, 2), (1, 1), (4, 3)))
    assert budget.take(move(draft, (0, 1)))  # both links of it are unused
    assert budget.take(move(draft, (5, 2)))
    assert budget.take(move(draft, (2, 3))) is False


def test_computed_tokens_are_given_back_with_the_links() -> None:
    draft, budget = picture(), budget_of(link=1e-9)
    assert not budget.take(move(draft, (2, 1), (0, 2)))
    assert budget.take(move(draft, (2, 1)))
    assert not budget.take(move(draft, (1, 1)))


def test_an_epoch_later_everything_is_there_again() -> None:
    draft, budget = picture(), budget_of()
    assert budget.take(move(draft, (0, 3))) and budget.take(move(draft, (2, 3)))
    budget.renew()
    assert budget.take(move(draft, (0, 3))) and budget.take(move(draft, (2, 3)))


def test_links_without_a_limit_carry_everything() -> None:
    draft, budget = picture(), budget_of(link=math.inf, prefill=1e-9)
    assert budget.take(move(draft, (0, 3), (2, 3), (3, 3), (4, 3)))


def test_who_is_placed_or_preempted_uses_no_link() -> None:
    draft, budget = picture(), budget_of(link=1e-9, prefill=1e-9)
    draft.shift(draft.ledger.requests[RequestId(0)], None)
    assert budget.take(draft)

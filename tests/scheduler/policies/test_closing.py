"""What is emptied, when and at what price, on pictures of instances of ten pages."""

import math

import pytest

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.budget import Budget
from mell_jax.scheduler.policies.closing import Closing
from mell_jax.scheduler.policies.consolidate import Consolidate
from mell_jax.scheduler.policies.volume import Volume
from tests.scheduler.policies.layout import homes, lay_out, sizes


def closing_of(*, price_s: float = 1e-6, link: float = math.inf) -> Closing:
    """By default every move is worth it."""
    config = PolicyConfig(
        move_price_s=price_s, link_bytes_per_s=link, prefill_tokens_per_s=1e-9
    )
    return Closing(
        volume=Volume(price_s=price_s), budget=Budget(config), epoch_s=config.epoch_s
    )


def closed(
    draft: Draft, *, is_epoch: bool = False, closing: Closing | None = None
) -> list[int | None]:
    (closing or closing_of()).close(draft, ONLY_MODEL, is_epoch=is_epoch)
    draft.ledger.check()
    return homes(draft)


def test_the_emptiest_is_emptied() -> None:
    assert closed(lay_out([6], [2], [5, 3])) == [0, 2, 2, 2]
    assert closed(lay_out([6], [4, 1], [5, 3])) == [0, 0, 2, 2, 2]


def test_nothing_is_emptied_that_would_be_needed_again() -> None:
    assert closed(lay_out([6], [4])) == [0, 1]  # no page would stay free
    assert closed(lay_out([6], [3])) == [0, 0]


def test_what_is_empty_is_parked_while_one_is_too_many() -> None:
    draft = lay_out([6], [], [], [])
    closed(draft)
    assert sizes(draft) == {0: [6]}
    draft = lay_out([6, 4], [10], [], [])
    closed(draft)
    assert sizes(draft) == {0: [6, 4], 1: [10], 3: []}


def test_what_takes_more_than_a_chain_is_packed_exactly_at_an_epoch() -> None:
    """The 3 and the 2 have to make room for the one 5 beside the other."""
    picture = [5, 2, 3], [5], [6], [6]
    assert closed(lay_out(*picture)) == [0, 0, 0, 1, 2, 3]
    assert closed(lay_out(*picture), is_epoch=True) == [0, 3, 2, 0, 2, 3]


def test_a_price_that_is_more_than_it_is_worth_is_not_paid() -> None:
    """A margin of 4 pages lasts 16 * 60 / 80 = 12 s: worth 120 pages by the price."""

    def said(price_s: float) -> list[int | None]:
        volume = Volume(price_s=price_s)
        draft = lay_out([6], [2], [8])
        for _ in range(5):
            volume.note(draft.ledger, ONLY_MODEL, pages=4)
        config = PolicyConfig(move_price_s=price_s)
        return closed(
            draft,
            closing=Closing(volume=volume, budget=Budget(config), epoch_s=1.0),
        )

    assert said(60.0) == [0, 2, 2]  # two pages move
    assert said(61.0) == [0, 1, 2]


def test_a_search_in_vain_is_repeated_once_something_has_left_and_not_at_once() -> None:
    closing, draft = closing_of(), lay_out([6, 1], [6, 1], [6, 1], [5])
    ledger = draft.ledger
    assert closed(draft, closing=closing) == [0, 0, 1, 1, 2, 2, 3]
    ledger.settle(ledger.requests[RequestId(0)], None)
    assert closed(draft, closing=closing) == [None, 0, 1, 1, 2, 2, 3]
    ledger.now_s = 0.02
    assert closed(draft, closing=closing) == [None, 1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("load_s", [3.0, 5.0])
def test_an_instance_that_moves_have_emptied_stays_as_long_as_it_takes_to_load(
    load_s: float,
) -> None:
    spec = ModelSpec(capacity_pages=10, load_s=load_s)
    policy, draft = Consolidate(PolicyConfig()), lay_out([1], [], spec=spec)
    for now_s, count in [(0.0, 2), (load_s - 0.1, 2), (load_s, 1)]:
        draft.ledger.now_s = now_s
        if len(draft.ledger.instances) == 2:
            policy.emptied(draft, draft.ledger.instances[DeviceGroupId(1)])
        assert len(draft.ledger.instances) == count

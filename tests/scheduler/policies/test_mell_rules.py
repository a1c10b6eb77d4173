"""Single operations of MELL on pictures of instances of 24 pages.

SMALL is up to 3 pages, T 4-6, S 7-8, M 9-12, L 13-24.
"""

import pytest

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement.accounts import InstanceAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.mell_items import Size
from mell_jax.scheduler.policies.mell_kinds import Kinds
from mell_jax.scheduler.policies.mell_rules import Operation
from mell_jax.scheduler.policies.parking import Parking
from tests.scheduler.policies.layout import add, lay_out, sizes

SPEC = ModelSpec(capacity_pages=24)


def picture(*instances: list[int], idle: int = 0) -> Draft:
    return lay_out(*instances, spec=SPEC, idle=idle)


def operation(
    draft: Draft, *, config: PolicyConfig | None = None, may_evict: bool = True
) -> Operation:
    return Operation(
        draft,
        kinds=Kinds(),
        parking=Parking(epoch_s=1.0),
        config=config or PolicyConfig(),
        may_evict=may_evict,
    )


def instance(draft: Draft, number: int) -> InstanceAccount:
    return draft.ledger.instances[DeviceGroupId(number)]


def placed(draft: Draft, pages: int, *, config: PolicyConfig | None = None) -> int:
    """Where an arrival goes; -1: it waits."""
    request = add(draft.ledger, pages)
    operation(draft, config=config, may_evict=False).place(request)
    return -1 if request.device is None else int(request.device)


def departed(draft: Draft, number: int, size: Size) -> dict[int, list[int]]:
    operation(draft).depart(DeviceGroupId(number), size)
    return sizes(draft)


def completed(
    draft: Draft, number: int, *, least: int = 0, config: PolicyConfig | None = None
) -> dict[int, list[int]]:
    operation(draft, config=config).complete(instance(draft, number), least=least)
    return sizes(draft)


def updated(draft: Draft, request: int) -> dict[int, list[int]]:
    operation(draft).update(draft.ledger.requests[RequestId(request)])
    return sizes(draft)


def settled(draft: Draft, request: int) -> dict[int, list[int]]:
    operation(draft).settle(draft.ledger.requests[RequestId(request)])
    return sizes(draft)


def relieved(
    draft: Draft, number: int, lack: int
) -> tuple[dict[int, list[int]], list[int]]:
    """Sizes, and what was shed."""
    done = operation(draft, may_evict=False)
    done.relieve(instance(draft, number), lack)
    return sizes(draft), [item.pages for item in done.shed]


def test_an_l_opens_an_instance_although_another_has_room() -> None:
    assert placed(picture([4], idle=1), 14) == 1
    assert placed(picture([4]), 14) == 0  # there is none to be opened
    assert placed(picture([14]), 14) == -1


def test_a_t_goes_where_most_room_is_and_of_equals_where_fewer_are() -> None:
    assert placed(picture([20], [18], [19]), 4) == 1
    assert placed(picture([18, 2], [20]), 4) == 1
    assert placed(picture([20], [18, 2]), 4) == 0


def test_a_t_fills_an_instance_to_its_last_page() -> None:
    assert placed(picture([18], idle=1), 6) == 0
    assert placed(picture([19], idle=1), 6) == 1
    assert placed(picture([6, 6, 6], idle=1), 6) == 0
    assert placed(picture([6, 6, 6, 1], idle=1), 6) == 1


def test_headroom_is_left_free_by_what_is_light() -> None:
    config = PolicyConfig(headroom=0.125)  # 3 pages
    assert placed(picture([15], idle=1), 6, config=config) == 0
    assert placed(picture([16], idle=1), 6, config=config) == 1
    assert placed(picture([18, 1], idle=1), 2, config=config) == 0
    assert placed(picture([18, 2], idle=1), 2, config=config) == 1
    assert placed(picture([6, 6, 3, 3], idle=1), 4, config=config) == 1


def test_what_is_small_joins_the_open_bundle_with_the_least_room() -> None:
    assert placed(picture([6, 6, 2], [20, 2], [13]), 2) == 1
    assert placed(picture([6, 6, 2], [20, 2], [13]), 3) == 0
    assert placed(picture([6, 6], [20], [13]), 2) == 2  # no bundle is open


def test_idle_memory_and_nearness_weigh_up() -> None:
    """A host has two instances. 9 idle pages of 24 weigh 0.375, 7 weigh 0.29, or 0.39
    on the same host."""

    def taken(near_weight: float) -> dict[int, list[int]]:
        draft = picture([20, 4], [17], [15])
        config = PolicyConfig(devices_per_host=2, near_weight=near_weight)
        done = operation(draft, config=config, may_evict=False)
        done.relieve(instance(draft, 0), 1)
        return sizes(draft)

    assert taken(0.1) == {0: [20], 1: [17, 4], 2: [15]}
    assert taken(0.05) == {0: [20], 1: [17], 2: [15, 4]}


def test_an_m_goes_beside_the_l_with_most_room_over_its_t() -> None:
    assert placed(picture([15], [14], [10], idle=1), 9) == 1
    assert placed(picture([14, 7], [10], idle=1), 9) == 1  # that L has its partner
    assert placed(picture([14, 10], [10, 10], idle=1), 9) == 2


def test_an_arrival_does_not_wait_for_t_that_would_have_to_go() -> None:
    assert placed(picture([14, 6], idle=1), 9) == 1


def test_a_t_gpu_is_filled_to_three_quarters() -> None:
    assert completed(picture([6, 6], [5, 5, 4]), 0) == {0: [6, 6, 5, 5], 1: [4]}
    assert completed(picture([6, 6, 5], [5, 5]), 0) == {0: [6, 6, 5, 5], 1: [5]}
    assert completed(picture([6, 6, 6], [5, 5]), 0) == {0: [6, 6, 6], 1: [5, 5]}


def test_as_many_t_come_as_have_gone_if_they_fit() -> None:
    before = [6, 6, 6]
    assert completed(picture(before, [5, 4]), 0, least=1) == {0: [*before, 5], 1: [4]}
    assert completed(picture(before, [5]), 0, least=2) == {0: [*before, 5], 1: []}
    assert completed(picture([20], [5]), 0, least=1) == {0: [20], 1: [5]}


def test_an_l_and_an_m_gpu_are_filled_with_t_too() -> None:
    assert completed(picture([13], [5, 4]), 0) == {0: [13, 5], 1: [4]}
    assert completed(picture([9, 9], [5, 4]), 0) == {0: [9, 9], 1: [5, 4]}
    assert completed(picture([9], [5, 4, 5]), 0) == {0: [9, 5, 5], 1: [4]}


def test_an_s_gpu_is_not_filled_with_t() -> None:
    assert completed(picture([8], [5, 4]), 0) == {0: [8], 1: [5, 4]}


def test_the_cap_ends_what_is_pulled() -> None:
    draft = picture([6], [4, 4, 4])
    config = PolicyConfig(move_cap=2)
    done = operation(draft, config=config)
    done.complete(instance(draft, 0))
    assert sizes(draft) == {0: [6, 4, 4], 1: [4]}
    assert (done.moves, done.request_moves, done.is_cut_short) == (2, 2, True)


def test_an_incomplete_gpu_that_is_the_latest_has_the_one_before_completed() -> None:
    assert completed(picture([10], [9, 9], [10]), 2) == {0: [10], 1: [9, 9], 2: [10]}
    assert completed(picture([10], [9], [10]), 2) == {0: [10], 1: [9, 10], 2: []}
    assert completed(picture([6], [5], [20]), 1) == {0: [6, 5], 1: [], 2: [20]}


def test_an_l_pulls_its_partner_and_the_largest_that_fits() -> None:
    assert completed(picture([14], [9, 10]), 0) == {0: [14, 10], 1: [9]}
    assert completed(picture([15], [9, 10]), 0) == {0: [15, 9], 1: [10]}
    assert completed(picture([14, 7], [9, 10]), 0) == {0: [14, 7], 1: [9, 10]}


def test_an_l_pulls_the_smallest_partner_of_all_where_the_latest_have_none() -> None:
    """Of the latest M- and S-GPU nothing fits beside 17; of an older one the 7 does."""
    assert completed(picture([17], [7, 8, 8], [8, 8, 8], [12, 12]), 0) == {
        0: [17, 7],
        1: [8, 8, 8],
        2: [8, 8],
        3: [12, 12],
    }


def test_t_that_lose_their_m_are_allocated_anew() -> None:
    assert departed(picture([5, 2], [14]), 0, Size.M) == {0: [], 1: [14, 5, 2]}
    assert departed(picture([5, 2], [14]), 0, Size.L) == {0: [], 1: [14, 5, 2]}


def test_the_largest_of_those_that_lose_their_l_is_allocated_first() -> None:
    assert departed(picture([4, 6], [15]), 0, Size.L) == {0: [4], 1: [15, 6]}


def test_t_whose_m_was_pulled_away_or_has_gone_elsewhere_are_allocated_anew() -> None:
    assert completed(picture([10], [9, 5]), 0) == {0: [10, 9, 5], 1: []}
    assert updated(picture([9, 5], [10]), 0) == {0: [], 1: [10, 9, 5]}
    assert settled(picture([9, 5], [10]), 0) == {0: [], 1: [10, 9, 5]}
    assert completed(picture([13, 2], [9, 4], [19]), 0)[1] == []


def test_nothing_is_opened_for_those_that_lose_their_l() -> None:
    assert departed(picture([4, 9], idle=1), 0, Size.L) == {0: [4, 9]}


def test_what_a_gone_or_closing_instance_has_lost_is_nobodys_business() -> None:
    draft = picture([14], [9])
    closing = instance(draft, 0)
    closing.is_closing = True
    draft.ledger.refile(closing)
    assert departed(draft, 0, Size.M) == {0: [14], 1: [9]}
    assert departed(draft, 7, Size.M) == {0: [14], 1: [9]}


def test_one_that_became_an_m_among_others_of_its_kind_stays() -> None:
    assert updated(picture([9, 9], [10]), 0) == {0: [9, 9], 1: [10]}
    assert updated(picture([9], [10]), 0) == {0: [], 1: [10, 9]}
    assert updated(picture([8, 8, 9], [10]), 2) == {0: [8, 8], 1: [10, 9]}


def test_one_that_became_an_l_has_the_partner_that_it_has_pushed_out_replaced() -> None:
    assert updated(picture([13], [9]), 0) == {0: [13, 9], 1: []}


def test_a_move_in_flight_is_left_alone() -> None:
    draft = picture([9], [10])
    draft.ledger.requests[RequestId(0)].move = 5  # type: ignore[assignment]
    assert updated(draft, 0) == settled(draft, 0) == {0: [9], 1: [10]}


def test_an_arrival_that_is_alone_joins_the_latest_of_its_kind() -> None:
    assert settled(picture([9], [10]), 0) == {0: [], 1: [10, 9]}
    assert settled(picture([9, 9], [10]), 0) == {0: [9, 9], 1: [10]}


def test_an_arrival_goes_beside_an_l_whose_t_make_room() -> None:
    assert settled(picture([9], [14, 5, 2]), 0) == {0: [5, 2], 1: [14, 9]}


@pytest.mark.parametrize(
    ("lack", "shed"), [(1, [2]), (2, [2]), (3, [2, 4]), (7, [2, 5])]
)
def test_beside_an_l_the_smallest_classes_go_first(lack: int, shed: list[int]) -> None:
    assert relieved(picture([13, 5, 4, 2], idle=1), 0, lack)[1] == shed

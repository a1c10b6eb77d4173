"""How MELL sees instances of 24 pages: T is 4-6, S 7-8, M 9-12, L 13-24."""

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.policies.mell_items import Size
from mell_jax.scheduler.policies.mell_kinds import Kinds, Shape, shape_of
from tests.scheduler.policies.layout import add, lay_out

SPEC = ModelSpec(capacity_pages=24)


def shape(*pages: int, arriving: tuple[int, ...] = ()) -> Shape:
    ledger = lay_out([*pages], spec=SPEC).ledger
    (instance,) = ledger.instances.values()
    for size in arriving:
        request = add(ledger, size)
        instance.arriving[request.id] = request
    return shape_of(ledger, instance)


def following(*instances: list[int]) -> tuple[Draft, Kinds]:
    draft, kinds = lay_out(*instances, spec=SPEC), Kinds()
    kinds.follow(draft.ledger)
    return draft, kinds


def test_the_kind_is_the_largest_class() -> None:
    assert shape(6, 13, 9).kind is Size.L
    assert shape(6, 12, 8).kind is Size.M
    assert shape(6, 8, 2).kind is Size.S
    assert shape(6, 2).kind is shape(2).kind is Size.T
    assert shape().kind is Size.SMALL


def test_those_that_arrive_count_for_the_kind() -> None:
    assert shape(6, arriving=(13,)).kind is Size.L
    assert shape(6, arriving=(12,)).kind is shape(6, arriving=(9,)).kind is Size.M
    assert shape(6, arriving=(8,)).kind is shape(6, arriving=(7,)).kind is Size.S
    assert shape(arriving=(6,)).kind is shape(arriving=(1,)).kind is Size.T
    found = shape(8, 9, arriving=(7, 8, 12))
    assert (found.small, found.medium) == (3, 2)
    assert found.least_partner == 8  # of those that may move


def test_partners_and_bundles_are_counted() -> None:
    found = shape(7, 8, 9, 2, 1)
    assert (found.small, found.medium, found.least_partner) == (2, 1, 7)
    assert shape(9, 7, 8).least_partner == 7
    assert found.open_bundle_pages == 3
    assert shape(2, 2, 1).open_bundle_pages == 1  # the first two are a bundle
    assert shape(13, 4).is_single and not shape(13, 7).is_single
    assert not shape(6).is_single


def test_room_is_told_with_and_without_what_is_light() -> None:
    found = shape(13, 4, 2)
    assert (found.room, found.room_over_t) == (5, 11)


def test_what_changes_is_looked_at_again_by_every_question() -> None:
    draft, kinds = following([13], [9], [2])
    first, second, third = map(DeviceGroupId, range(3))
    request = draft.ledger.requests[RequestId(1)]
    assert kinds.latest(ONLY_MODEL, Size.M) == second
    draft.shift(request, first)
    assert kinds.latest(ONLY_MODEL, Size.M) is None
    draft.rollback()
    found = kinds.shape(second)
    assert found is not None and found.kind is Size.M
    draft.shift(request, None)
    assert kinds.roomy(ONLY_MODEL) == [first]
    draft.rollback()
    assert kinds.roomy(ONLY_MODEL) == [second, first]
    draft.shift(request, first)
    assert kinds.singles(ONLY_MODEL) == []
    draft.rollback()
    assert kinds.singles(ONLY_MODEL) == [first]
    draft.shift(request, None)
    assert list(kinds.partners(ONLY_MODEL)) == []
    draft.rollback()
    assert list(kinds.partners(ONLY_MODEL)) == [second]
    draft.shift(draft.ledger.requests[RequestId(2)], None)
    assert list(kinds.open_bundles(ONLY_MODEL, 1)) == []
    draft.rollback()
    assert list(kinds.open_bundles(ONLY_MODEL, 1)) == [third]
    assert list(kinds.open_bundles(ONLY_MODEL, 22)) == [third]
    assert list(kinds.open_bundles(ONLY_MODEL, 23)) == []


def test_the_most_recent_of_a_kind_comes_first_and_a_closing_one_not_at_all() -> None:
    draft, kinds = following([9], [7], [10], [12])
    first, third, fourth = map(DeviceGroupId, (0, 2, 3))
    assert list(kinds.latest_first(ONLY_MODEL, Size.M)) == [fourth, third, first]
    closing = draft.ledger.instances[third]
    closing.is_closing = True
    draft.ledger.refile(closing)
    assert list(kinds.latest_first(ONLY_MODEL, Size.M)) == [fourth, first]
    assert kinds.shape(third) is None


def test_the_smallest_partner_comes_first_and_the_emptiest_of_those_that_take_t() -> (
    None
):
    _, kinds = following([9], [7, 8], [12], [13, 3], [20], [8, 8])
    assert list(kinds.partners(ONLY_MODEL)) == [1, 5, 0, 2]
    assert kinds.roomy(ONLY_MODEL) == [0, 2, 3, 4]
    assert kinds.singles(ONLY_MODEL) == [3, 4]


def test_of_a_model_that_nobody_serves_there_is_nothing() -> None:
    _, kinds = following()
    assert kinds.roomy(ONLY_MODEL) == kinds.singles(ONLY_MODEL) == []
    assert list(kinds.open_bundles(ONLY_MODEL, 1)) == []
    assert list(kinds.partners(ONLY_MODEL)) == []
    assert kinds.latest(ONLY_MODEL, Size.L) is None

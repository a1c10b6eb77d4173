"""Size classes and bundles, for instances of 24 pages."""

import pytest

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.policies.mell_items import Size, items_of, size_of
from tests.scheduler.policy_harness import Fleet


@pytest.mark.parametrize(
    ("pages", "size"),
    [
        (1, Size.SMALL),
        (3, Size.SMALL),  # C/8 itself is small
        (4, Size.T),
        (6, Size.T),
        (7, Size.S),
        (8, Size.S),
        (9, Size.M),
        (12, Size.M),
        (13, Size.L),
        (24, Size.L),
    ],
)
def test_classes_are_open_below_and_closed_above(pages: int, size: Size) -> None:
    assert size_of(pages, capacity=24) is size


def test_small_requests_are_cut_into_bundles_above_an_eighth() -> None:
    fleet = Fleet("mell", capacity=24)
    for request, pages in enumerate([2, 2, 5, 3, 1, 2]):
        fleet.arrive(request, pages)
    ledger = fleet.machine.ledger
    items = items_of(ledger, ledger.instances[DeviceGroupId(0)])
    assert [([r.id for r in i.requests], i.pages, i.size) for i in items] == [
        ([0, 1], 4, Size.T),
        ([2], 5, Size.T),
        ([3, 4], 4, Size.T),
        ([5], 2, Size.SMALL),  # the open bundle
    ]

"""The bound in money: by hand, against every fleet there is, and as L2 at a price."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.bounds import instances_bound
from mell_jax.scheduler.placement.model import ModelSpec, StepTime
from mell_jax.scheduler.price_bound import Offer, price_bound
from tests.scheduler.optimum import cheapest


def offer(capacity: int, price: float, count: float = math.inf) -> Offer:
    return Offer(
        spec=ModelSpec(capacity_pages=capacity), price_per_hour=price, count=count
    )


def bound(sizes: list[int], *offers: Offer) -> float:
    return price_bound(np.array(sizes, np.int64), offers=offers)


BIG, SMALL = offer(20, 3.0), offer(10, 1.0)


def test_a_request_that_fits_only_the_dear_kind_costs_as_much() -> None:
    assert bound([15], BIG, SMALL) == 3.0
    assert bound([10], BIG, SMALL) == 1.0


def test_what_is_left_beside_it_is_used_first() -> None:
    assert bound([15, 5], BIG, SMALL) == 3.0
    assert bound([15, 6], BIG, SMALL) == 4.0


def test_more_than_half_a_device_has_it_alone() -> None:
    # by volume 18 pages cost 1.8, so two of the small; but no two are on one
    assert bound([6, 6, 6], BIG, SMALL) == 3.0


def test_whole_devices_hold_all_pages() -> None:
    # 25 pages: three small ones or a big and a small one, though 2.5 would do in parts
    assert bound([5] * 5, offer(20, 2.1), offer(10, 1.0)) == 3.0


def test_what_is_scarce_is_made_up_for_by_what_is_dear() -> None:
    few = offer(10, 1.0, count=2)
    assert bound([10] * 4, BIG, SMALL) == 4.0
    assert bound([10] * 4, BIG, few) == 2 * 1.0 + 3.0


def test_step_time_counts_where_it_is_scarcer_than_pages() -> None:
    slow = Offer(
        spec=ModelSpec(
            capacity_pages=100, step_time=StepTime(row_s=1.0), step_budget_s=2.0
        ),
        price_per_hour=1.0,
    )
    dear = offer(2, 9.0)
    assert bound([1] * 6, slow, dear) == 3.0  # two rows on each of either


def test_a_budget_that_steps_use_up_whatever_is_in_them_bounds_nothing() -> None:
    idle = Offer(
        spec=ModelSpec(
            capacity_pages=10, step_time=StepTime(fixed_s=1.0), step_budget_s=1.0
        ),
        price_per_hour=1.0,
    )
    assert bound([5, 5, 5], idle, BIG) == 2.0


def test_nothing_costs_nothing() -> None:
    assert bound([], BIG, SMALL) == 0.0


def test_what_fits_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"21 pages fits no kind.*holds 20"):
        bound([3, 21], BIG, SMALL)


@given(
    st.lists(st.integers(1, 10), max_size=30),
    st.floats(0.1, 9.0),
    st.integers(1, 3),
)
def test_of_equal_kinds_it_is_the_bound_of_their_number(
    sizes: list[int], price: float, kinds: int
) -> None:
    spec = ModelSpec(capacity_pages=10)
    offers = [Offer(spec=spec, price_per_hour=price, count=5)] * kinds
    found = price_bound(np.array(sizes, np.int64), offers=offers)
    assert found == price * instances_bound(np.array(sizes, np.int64), spec=spec)


OFFERS = st.builds(
    offer,
    st.integers(3, 20),
    st.sampled_from([0.7, 1.0, 1.5, 2.0, 3.3]),
    st.sampled_from([1, 2, 3, math.inf]),
)


@given(st.lists(OFFERS, min_size=2, max_size=3), st.data())
def test_no_fleet_is_cheaper(offers: list[Offer], data: st.DataObject) -> None:
    largest = max(each.spec.capacity_pages for each in offers)
    sizes = data.draw(st.lists(st.integers(1, largest), max_size=6))
    assert bound(sizes, *offers) <= cheapest(sizes, offers) + 1e-9


def test_it_is_near_the_cheapest_fleet() -> None:
    """A bound of 0 would pass the test above."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(100):
        offers = [
            offer(int(rng.integers(3, 21)), float(rng.choice([0.7, 1.0, 1.5, 3.3])))
            for _ in range(3)
        ]
        largest = max(each.spec.capacity_pages for each in offers)
        sizes = rng.integers(1, largest + 1, 6).tolist()
        ratios.append(bound(sizes, *offers) / cheapest(sizes, offers))
    assert max(ratios) <= 1 + 1e-9
    assert np.mean(ratios) > 0.98


def test_many_kinds_have_too_many_fleets_to_look_at_each() -> None:
    offers = [offer(100 + n, 1.0 + n / 100) for n in range(6)]
    sizes = [60] * 200  # one on each device, the cheapest is 1.0
    assert bound(sizes, *offers) == pytest.approx(200.0)

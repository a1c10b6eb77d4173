"""The sums of a random walk, worked out by hand for instances of ten pages."""

import math

import pytest

from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.policies.volume import Volume
from tests.scheduler.policies.layout import add, lay_out

GROWING = ModelSpec(capacity_pages=10, growth_pages_per_s=0.5)


def noted(*pages: int) -> Volume:
    """So many pages came or left, all at once at 0 s; a device's second is worth 2."""
    volume = Volume(price_s=2.0)
    ledger = lay_out([]).ledger
    for each in pages:
        volume.note(ledger, ONLY_MODEL, pages=each)
    return volume


def own(ledger: Ledger) -> KindBooks:
    return ledger.kinds(ONLY_MODEL)[0]


def test_a_margin_is_used_up_the_sooner_the_more_comes_and_goes() -> None:
    volume = noted(3, 4)  # 25 pages^2 in a minute
    assert volume.lasts_s(ONLY_MODEL, margin=5.0) == pytest.approx(60.0)
    assert volume.lasts_s(ONLY_MODEL, margin=10.0) == pytest.approx(240.0)


def test_what_came_is_forgotten_in_a_minute() -> None:
    volume, ledger = noted(10), lay_out([]).ledger
    ledger.now_s = 60 * math.log(4)
    volume.note(ledger, ONLY_MODEL, pages=5)  # 100 / 4 + 25
    assert volume.lasts_s(ONLY_MODEL, margin=5.0) == pytest.approx(30.0)
    ledger.now_s += 60 * math.log(2)
    volume.note(ledger, ONLY_MODEL, pages=5)  # 50 / 2 + 25
    assert volume.lasts_s(ONLY_MODEL, margin=5.0) == pytest.approx(30.0)


def test_a_clock_that_goes_back_adds_nothing() -> None:
    volume, ledger = noted(), lay_out([]).ledger
    ledger.now_s = 60.0
    volume.note(ledger, ONLY_MODEL, pages=3)
    ledger.now_s = 0.0
    volume.note(ledger, ONLY_MODEL, pages=4)  # 9 + 16
    assert volume.lasts_s(ONLY_MODEL, margin=5.0) == pytest.approx(60.0)


def test_nothing_lasts_no_time_and_a_fleet_that_stands_still_lasts_for_ever() -> None:
    for margin in (0.0, -0.5, -1.0):
        assert noted(1).lasts_s(ONLY_MODEL, margin=margin) == 0.0
        assert noted().lasts_s(ONLY_MODEL, margin=margin) == 0.0
    assert noted().lasts_s(ONLY_MODEL, margin=0.5) == math.inf
    assert noted(1).lasts_s(ONLY_MODEL, margin=0.5) == pytest.approx(15.0)


def test_a_page_a_minute_is_the_least_that_comes_and_goes() -> None:
    assert noted(0).lasts_s(ONLY_MODEL, margin=2.0) == pytest.approx(240.0)


def test_a_margin_is_what_stays_free_without_those_that_are_closed() -> None:
    ledger = lay_out([6], [4, 1], [2]).ledger
    assert noted().margin(ledger, ONLY_MODEL, less=0 * [own(ledger)]) == 17.0
    assert noted().margin(ledger, ONLY_MODEL, less=1 * [own(ledger)]) == 7.0
    assert noted().margin(ledger, ONLY_MODEL, less=2 * [own(ledger)]) == -3.0
    add(ledger, 5)  # it waits
    assert noted().margin(ledger, ONLY_MODEL, less=1 * [own(ledger)]) == 7.0


def test_pages_of_a_move_in_flight_are_counted_once() -> None:
    ledger = lay_out([6], [4]).ledger
    source, target = ledger.instances.values()
    ledger.leave(source, pages=6)
    ledger.charge(target, pages=6, rows=1)
    assert noted().margin(ledger, ONLY_MODEL, less=1 * [own(ledger)]) == 0.0


def test_a_margin_has_room_for_two_seconds_of_growth() -> None:
    ledger = lay_out([3, 3], [4, 1], spec=GROWING).ledger
    assert noted().margin(ledger, ONLY_MODEL, less=0 * [own(ledger)]) == 20 - 11 - 4
    assert noted().margin(ledger, ONLY_MODEL, less=1 * [own(ledger)]) == 10 - 11 - 4


def test_in_a_large_fleet_growth_and_ends_even_out() -> None:
    """Sixteen instances keep room for one second, half as much as four."""
    ledger = lay_out(*([2, 2] for _ in range(17)), spec=GROWING).ledger
    assert noted().margin(ledger, ONLY_MODEL, less=1 * [own(ledger)]) == 160 - 68 - 17


def test_a_closing_is_worth_the_pages_of_as_many_seconds_as_its_price_buys() -> None:
    ledger = lay_out([4]).ledger
    assert noted(10).worth(own(ledger), ONLY_MODEL, margin=5.0) == pytest.approx(75.0)
    assert noted(10).worth(own(ledger), ONLY_MODEL, margin=0.5) == pytest.approx(0.75)
    assert noted(10).worth(own(ledger), ONLY_MODEL, margin=0.0) == 0.0


def test_loading_it_again_is_taken_off() -> None:
    ledger = lay_out([4], spec=ModelSpec(capacity_pages=10, load_s=11.0)).ledger
    assert noted(10).worth(own(ledger), ONLY_MODEL, margin=5.0) == pytest.approx(20.0)
    assert noted(10).worth(own(ledger), ONLY_MODEL, margin=4.0) == 0.0

"""The benchmark of a controller, on a fleet that is small enough for a test."""

import pytest

from benchmarks.hosts.controller import measure_controller


def test_a_small_fleet_is_filled_warmed_and_measured() -> None:
    figures = measure_controller(
        hosts=3, groups=2, fronts=2, streams=40, num_events=200, warm_s=1.0
    )
    assert figures.events >= 200
    assert figures.sent > 100
    assert figures.instances >= 2
    assert 0.5 < figures.events_per_stream_s < 10
    assert 0.1 < figures.packed < 1
    assert 0 < figures.ahead < 0.2
    assert figures.cpu_ms_per_1000_events * figures.events_per_s == pytest.approx(1e6)
    assert figures.event_us_p50 <= figures.event_us_p99 <= figures.event_us_max
    assert figures.host_lost_ms > 0


def test_rows_that_get_nothing_beforehand_ask_for_every_page() -> None:
    figures = measure_controller(
        hosts=3,
        groups=2,
        fronts=2,
        streams=40,
        num_events=200,
        warm_s=1.0,
        pages_ahead=0,
    )
    assert 1.875 < figures.events_per_stream_s < 10  # 30 tokens of 16 a page, and ends
    assert figures.ahead == 0


@pytest.mark.parametrize("name", ["hosts", "groups", "streams"])
def test_an_empty_fleet_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        measure_controller(**{name: 0})

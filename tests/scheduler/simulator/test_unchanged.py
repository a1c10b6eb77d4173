"""Runs without any switch of realism give the figures that they always gave."""

import math

import pytest

from mell_jax.scheduler.simulator.settings import Settings
from tests.scheduler.simulator.test_simulator import HARD, drawn, mixed, outcome

FIGURES = (
    "devices_mean",
    "lower_bound_mean",
    "utilization_mean",
    "tokens_moved",
    "tokens_recomputed",
    "pause_s",
    "wait_mean_s",
    "preemptions",
    "deferrals",
)
INSTANT = Settings(capacity_tokens=2000, link_gbps=math.inf)
LOADING = Settings(capacity_tokens=2000, link_gbps=1.0, activation_s=2.0)


@pytest.mark.parametrize(
    ("settings", "policy", "figures"),
    [
        (
            INSTANT,
            "consolidate",
            "9.264389458421826 8.818181818181818 0.8986631716768081 89732 0 0.0 "
            "0.014541440919647632 0 0",
        ),
        (
            INSTANT,
            "mell",
            "10.261819321147271 8.818181818181818 0.8449315048587777 227692 0 0.0 0.0 "
            "0 0",
        ),
        (
            LOADING,
            "consolidate",
            "10.952874937543614 8.818181818181818 0.8376232502346138 63270 59968 "
            "267.6746088238573 0.42109486657138456 0 0",
        ),
        (
            LOADING,
            "best_fit",
            "11.750405036540307 8.818181818181818 0.8225663124754032 95209 83933 "
            "376.459796424066 0.3238408867693187 0 0",
        ),
        (
            HARD,
            "consolidate",
            "5.0 5.454545454545454 0.8758441558441558 5920 12446 105.80901616177412 "
            "2.695931248268848 38 0",
        ),
        (
            HARD,
            "mell",
            "5.0 5.454545454545454 0.8435844155844158 12350 16324 63.08962042221334 "
            "2.519568506263722 18 18",
        ),
    ],
)
def test_a_run_without_switches_gives_the_figures_of_before(
    settings: Settings, policy: str, figures: str
) -> None:
    load = mixed() if settings is HARD else drawn()
    got = outcome(policy, load, settings).figures
    expected = [float(text) for text in figures.split()]
    # exact here; another processor's logarithms may differ in the last bit
    assert [got[name] for name in FIGURES] == pytest.approx(expected, rel=1e-12)

"""How many pages fit beside so many rows, by pages and by time; what may be asked."""

import math

import pytest

from mell_jax.scheduler.placement.model import ModelSpec, StepTime
from mell_jax.scheduler.placement.policy import PolicyConfig


def test_without_a_budget_pages_and_rows_alone_count() -> None:
    spec = ModelSpec(capacity_pages=10, max_rows=3)
    assert [spec.capacity(rows) for rows in range(5)] == [10, 10, 10, 10, -1]
    assert not spec.is_time_bound


def test_a_budget_of_time_is_shared_by_rows_and_pages() -> None:
    step = StepTime(fixed_s=0.5, row_s=0.25, page_s=0.125)
    assert step.predict(rows=2, pages=4) == 1.5
    spec = ModelSpec(capacity_pages=7, step_time=step, step_budget_s=1.5)
    # rows 0: (1.5 - 0.5) / 0.125 = 8 pages, of which 7 exist; each row costs two
    assert [spec.capacity(rows) for rows in range(6)] == [7, 6, 4, 2, 0, -1]
    assert spec.is_time_bound


def test_parts_of_a_step_take_no_time_unless_they_are_given() -> None:
    assert StepTime().predict(rows=5, pages=5) == 0.0
    rows = ModelSpec(capacity_pages=7, step_time=StepTime(row_s=1.0), step_budget_s=2.0)
    assert [rows.capacity(count) for count in range(4)] == [7, 7, 7, -1]
    pages = ModelSpec(
        capacity_pages=7, step_time=StepTime(page_s=1.0), step_budget_s=2.0
    )
    assert [pages.capacity(count) for count in range(4)] == [2, 2, 2, 2]


@pytest.mark.parametrize("value", [-1e-9, math.inf, math.nan])
def test_times_are_finite_and_not_negative(value: float) -> None:
    for name in ("fixed_s", "row_s", "page_s"):
        with pytest.raises(ValueError, match=name):
            StepTime(**{name: value})


def test_what_can_hold_nothing_is_refused() -> None:
    for wrong in ({"capacity_pages": 0}, {"max_rows": 0}, {"growth_pages_per_s": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ModelSpec(**{"capacity_pages": 1, **wrong})
    ModelSpec(
        capacity_pages=1, max_rows=1, step_time=StepTime(row_s=1), step_budget_s=1
    )
    with pytest.raises(ValueError, match="step_budget_s"):
        ModelSpec(capacity_pages=1, step_time=StepTime(page_s=2), step_budget_s=1)


@pytest.mark.parametrize(
    ("name", "least", "below"),
    [
        ("headroom", 0.0, -0.01),
        ("look_s", 0.0, -0.01),
        ("epoch_s", 0.01, 0.0),
        ("link_bytes_per_s", 0.01, 0.0),
        ("prefill_tokens_per_s", 0.01, 0.0),
        ("move_cap", 1, 0),
        ("load_weight", 0.0, -0.01),
        ("near_weight", 0.0, -0.01),
        ("devices_per_host", 1, 0),
    ],
)
def test_knobs_of_policies_have_a_least_value(
    name: str, least: float, below: float
) -> None:
    assert getattr(PolicyConfig(**{name: least}), name) == least
    for wrong in (below, math.nan):
        with pytest.raises(ValueError, match=name):
            PolicyConfig(**{name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("headroom", 1.0),
        ("look_s", math.inf),
        ("load_weight", math.inf),
        ("near_weight", math.inf),
    ],
)
def test_knobs_of_policies_have_a_greatest_value(name: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=name):
        PolicyConfig(**{name: wrong})
    assert getattr(PolicyConfig(**{name: 0.99}), name) == 0.99


def test_the_defaults_are_those_of_the_help() -> None:
    assert PolicyConfig() == PolicyConfig(
        headroom=0.0,
        look_s=None,
        epoch_s=1.0,
        move_cap=10,
        load_weight=1.0,
        near_weight=0.1,
        devices_per_host=8,
        link_bytes_per_s=math.inf,
        prefill_tokens_per_s=math.inf,
    )

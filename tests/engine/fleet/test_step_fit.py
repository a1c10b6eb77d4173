"""What a decode step takes is fitted to what was timed, and is a limit of placement."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.engine.fleet.step_fit import (
    FIT_S,
    MOST_TURNS,
    StepShape,
    check_slo,
    choose_shapes,
    fit_seconds,
    fit_step_time,
    measure_step_time,
    time_shapes,
)
from mell_jax.scheduler.cache_spec import CacheSpec, PageGroup
from mell_jax.scheduler.placement.model import StepTime
from tests.toy import toy_info, toy_worker

PLAIN = CacheSpec(page_tokens=4)
SHAPES = [
    StepShape(rows=rows, pages=pages) for rows in (1, 2, 8) for pages in (1, 5, 9)
]
PARTS = st.floats(1e-6, 1.0)


@given(fixed_s=PARTS, row_s=PARTS, page_s=PARTS)
def test_what_was_linear_is_found_again(
    fixed_s: float, row_s: float, page_s: float
) -> None:
    took_s = {s: fixed_s + s.rows * row_s + s.rows * s.pages * page_s for s in SHAPES}
    found, fitted = fit_step_time(took_s, cache=PLAIN)
    assert found.fixed_s == pytest.approx(fixed_s, rel=1e-4, abs=1e-8)
    assert found.row_s == pytest.approx(row_s, rel=1e-4, abs=1e-8)
    assert found.page_s == pytest.approx(page_s, rel=1e-4, abs=1e-8)
    assert fitted.worst_error < 1e-6


def test_no_part_of_a_step_takes_less_than_nothing() -> None:
    took_s = {StepShape(rows=1, pages=1): 2.0, StepShape(rows=8, pages=1): 1.0}
    found, fitted = fit_step_time(took_s, cache=PLAIN)
    # Shares count: 4/3 is a third off 2 s and off 1 s, 1.2 is 0.4 and 0.2 off.
    assert (found.row_s, found.page_s) == (0.0, 0.0)
    assert found.fixed_s == pytest.approx(1.2)
    assert fitted.errors.tolist() == pytest.approx([-0.4, 0.2])
    assert fitted.typical_error == pytest.approx(0.3)
    assert fitted.worst_error == pytest.approx(0.4)


def test_a_cause_that_never_was_costs_nothing() -> None:
    fitted = fit_seconds([[1, 0], [1, 0]], took_s=[2.0, 2.0])
    assert fitted.coefficients.tolist() == pytest.approx([2.0, 0.0])


@pytest.mark.parametrize("bad_s", [0.0, -1.0, float("nan")])
def test_a_time_is_positive(bad_s: float) -> None:
    with pytest.raises(ValueError, match="times must be positive"):
        fit_seconds([[1], [1]], took_s=[1.0, bad_s])


def test_pages_of_a_windowed_layer_count_once_they_are_held() -> None:
    windowed = CacheSpec(page_tokens=4, groups=(PageGroup(window=4, ring=2),))
    took_s = {
        StepShape(rows=1, pages=1): 1.0 + 1.0,
        StepShape(rows=1, pages=2): 1.0 + 2.0,
        StepShape(rows=1, pages=50): 1.0 + 2.0,
    }
    found, _ = fit_step_time(took_s, cache=windowed)
    assert found.page_s == pytest.approx(1.0)


def test_steps_are_timed_full_and_nearly_empty_with_short_and_long_rows() -> None:
    shapes = choose_shapes(
        [1, 4, 16, 64, 256], capacity_pages=512, cache=PLAIN, max_pages=64
    )
    assert [(s.rows, s.pages) for s in shapes] == [
        *[(1, 1), (1, 64)],
        *[(5, 1), (5, 64)],  # the fewest that take the step of 16
        *[(16, 1), (16, 32)],  # 512 pages hold no more
        *[(65, 1), (65, 7)],
        *[(256, 1), (256, 2)],
    ]


def test_a_pool_may_hold_less_than_a_page_of_each_row() -> None:
    shapes = choose_shapes([2, 8], capacity_pages=4, cache=PLAIN, max_pages=3)
    assert [(s.rows, s.pages) for s in shapes] == [(2, 1), (2, 2), (3, 1), (4, 1)]


def test_one_compiled_batch_is_enough() -> None:
    shapes = choose_shapes([8], capacity_pages=64, cache=PLAIN, max_pages=4)
    assert [(s.rows, s.pages) for s in shapes] == [(8, 1), (8, 4)]


class Stopwatch:
    """A clock that steps of a given length move on."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.now_s, self.calls = step_s, 0.0, 0

    def __call__(self) -> float:
        return self.now_s

    def step(self, shape: StepShape) -> float:
        self.calls += 1
        self.now_s += self.step_s
        return self.step_s


@pytest.mark.parametrize(
    ("step_s", "calls"),
    [
        (1e-3, 1 + MOST_TURNS * len(SHAPES)),
        (FIT_S / 20, 20),  # two turns and a bit
        (FIT_S, 1 + len(SHAPES)),  # once each, however long it takes
    ],
)
def test_timing_ends_when_its_time_is_over(step_s: float, calls: int) -> None:
    watch = Stopwatch(step_s)
    took_s = time_shapes(SHAPES, time_one=watch.step, clock=watch)
    assert took_s == dict.fromkeys(SHAPES, step_s)
    assert watch.calls == calls


def test_workers_are_timed_together_and_left_as_they_were(caplog) -> None:
    workers = [
        toy_worker(num_pages=65, max_rows=8, token_budget=64, max_tokens=128)
        for _ in range(2)
    ]
    with caplog.at_level("INFO", logger="absl"):
        found = measure_step_time(
            workers, cache=PLAIN, capacity_pages=64, max_pages=32, name="toy"
        )
    assert 0 < found.predict(rows=1, pages=1) < 1
    assert not any(np.asarray(worker.pool)[1:].any() for worker in workers)
    assert "a decode step of toy takes" in caplog.text


def test_a_limit_that_one_request_misses_is_refused_with_a_way_out() -> None:
    step_time = StepTime(fixed_s=0.010, row_s=0.001, page_s=0.0001)
    info = toy_info(max_tokens=128)
    check_slo(21.0, step_time=step_time, pages=100, info=info)
    with pytest.raises(ValueError) as caught:
        check_slo(20.0, step_time=step_time, pages=100, info=info)
    assert str(caught.value) == (
        "tpot_slo_ms is 20, but a request of 128 tokens takes 21 ms per token of toy "
        "here, even alone: give at least 24, a smaller max_model_len, or more devices "
        "to each instance (mesh)"
    )

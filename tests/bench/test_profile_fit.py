"""Speeds are found again in the steps that they have made, even in noisy ones."""

import numpy as np
import pytest

from mell_jax.bench.profile_fit import HICCUP, fit_speed
from mell_jax.bench.step_watch import StepSample


def samples(*, noise: float = 0.0, seed: int = 0) -> list[StepSample]:
    """Steps of 10 ms, 1 ms a row, 0.1 ms a page, 0.2 ms a token, 0.3 ms 1,000 pairs."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(400):
        rows, tokens = int(rng.integers(0, 9)), int(rng.integers(0, 3)) * 100
        pages = rows * int(rng.integers(1, 50))
        pairs = tokens * int(rng.integers(100, 2000))
        took_ms = 10.0 + rows + 0.1 * pages + 0.2 * tokens + 0.3 * pairs / 1000
        found.append(
            StepSample(
                rows=rows,
                pages=pages,
                prefill_tokens=tokens,
                prefill_pairs=pairs,
                took_s=1e-3 * took_ms * (1.0 + noise * rng.exponential()),
            )
        )
    return found


def test_what_steps_were_made_of_is_found_again() -> None:
    speed = fit_speed(samples())
    assert speed.step_time.fixed_s == pytest.approx(0.010)
    assert speed.step_time.row_s == pytest.approx(0.001)
    assert speed.step_time.page_s == pytest.approx(0.0001)
    assert speed.prefill_token_s == pytest.approx(0.0002)
    assert speed.prefill_pair_s == pytest.approx(0.0003)
    assert speed.decodes.steps + speed.prefills.steps == 400
    assert speed.decodes.p90 < 1e-6 and speed.prefills.p90 < 1e-6
    assert speed.hiccups == 0


def test_noise_counts_by_its_mean() -> None:
    # Each step takes a tenth longer on average; shares of what was timed would say 8%.
    speed = fit_speed(samples(noise=0.1))
    assert speed.step_time.predict(rows=4, pages=100) == pytest.approx(
        1.1 * 0.024, rel=0.01
    )
    assert abs(speed.decodes.total) < 0.01 and abs(speed.prefills.total) < 0.01
    assert 0.01 < speed.decodes.p50 < speed.decodes.p90 < 0.3


def test_a_step_that_hung_says_nothing_of_the_others() -> None:
    steps = samples()
    for at in (3, 77, 200):
        one = steps[at]
        steps[at] = StepSample(
            rows=one.rows,
            pages=one.pages,
            prefill_tokens=one.prefill_tokens,
            prefill_pairs=one.prefill_pairs,
            took_s=10 * HICCUP * one.took_s,
        )
    speed = fit_speed(steps)
    assert speed.hiccups == 3
    assert speed.step_time.fixed_s == pytest.approx(0.010, rel=1e-3)


@pytest.mark.parametrize("has_prefill", [True, False])
def test_both_kinds_of_steps_are_needed(has_prefill: bool) -> None:
    kind = [s for s in samples() if (s.prefill_tokens > 0) == has_prefill]
    with pytest.raises(ValueError, match="steps with prefill and without, got"):
        fit_speed(kind)

import pytest

from mell_jax.bench.stats import median, percentile, summarize


def test_a_percentile_is_interpolated_between_the_closest_ranks():
    values = [40.0, 10.0, 30.0, 20.0]
    assert percentile(values, 0) == 10.0
    assert percentile(values, 50) == 25.0
    assert percentile(values, 90) == pytest.approx(37.0)
    assert percentile(values, 100) == 40.0


def test_the_99th_percentile_of_a_hundred_values_is_just_above_the_last_but_one():
    assert percentile([float(n) for n in range(1, 101)], 99) == pytest.approx(99.01)


def test_one_value_is_every_percentile():
    assert [percentile([7.0], p) for p in (0, 50, 99)] == [7.0, 7.0, 7.0]


def test_a_percentile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 50)


@pytest.mark.parametrize("percent", [-1.0, 100.5, float("nan")])
def test_a_percentage_out_of_range_is_refused(percent):
    with pytest.raises(ValueError, match="from 0 to 100"):
        percentile([1.0], percent)


def test_the_median_of_an_even_count_is_the_mean_of_the_two_in_the_middle():
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5
    assert median([9.0, 1.0, 2.0]) == 2.0


def test_a_summary_tells_count_mean_median_tail_and_range():
    summary = summarize([1.0, 2.0, 3.0, 10.0])
    assert (summary.count, summary.mean, summary.median) == (4, 4.0, 2.5)
    assert summary.p99 == pytest.approx(9.79)
    assert (summary.min, summary.max) == (1.0, 10.0)


def test_a_summary_of_nothing_is_all_zero():
    assert summarize([]).count == 0
    assert summarize([]).p99 == 0.0

import pytest

from benchmarks.service.slope import settled_slope


def test_a_slope_is_that_of_the_later_half():
    seconds = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert settled_slope(seconds, [0.0, 90.0, 99.0, 100.0, 102.0, 104.0]) == 2.0
    assert settled_slope(seconds, [0.0, 50.0, 99.0, 7.0, 7.0, 7.0]) == 0.0


def test_a_slope_goes_through_the_middle_of_what_jumps():
    assert settled_slope([0, 0, 0, 0, 0, 1, 2, 3], [9, 9, 9, 9, 0, 4, 2, 6]) == 1.6


@pytest.mark.parametrize("xs", [[], [1.0], [1.0, 2.0], [1.0, 2.0, 3.0, 3.0]])
def test_a_slope_of_next_to_nothing_is_refused(xs):
    with pytest.raises(ValueError, match="four samples apart"):
        settled_slope(xs, xs)

"""Instances that can be bought."""

import pytest

from mell_jax.planner.devices import read_devices
from mell_jax.planner.option import Option, find_options
from mell_jax.planner.roofline import Assumptions
from mell_jax.planner.shapes import find_shape
from tests.planner.small import option, profile

DEVICES = read_devices()
SHAPE = find_shape("qwen-32b")


def found(*kinds: str, longest_tokens: int) -> list[Option]:
    return find_options(
        SHAPE,
        devices=[DEVICES[kind] for kind in kinds],
        assumed=Assumptions(),
        measured={},
        longest_tokens=longest_tokens,
    )


def test_an_instance_has_as_many_devices_as_weights_and_requests_need() -> None:
    options = found("H100", "L40S", "L4", longest_tokens=10_000)
    assert [(one.kind, one.width) for one in options] == [
        *(("H100", width) for width in (1, 2, 4, 8)),
        *(("L40S", width) for width in (2, 4, 8)),  # 66 GB on 48 GB each
        *(("L4", width) for width in (4, 8)),
    ]
    assert [one.width for one in found("H100", longest_tokens=60_000)] == [2, 4, 8]


def test_an_instance_costs_as_much_as_its_devices() -> None:
    pair = option("A", price=2.5, width=2)
    assert (pair.name, pair.price_per_hour) == ("A x2", 5.0)


def test_a_measured_kind_is_taken_as_it_was_measured() -> None:
    measured = profile("H100")
    (one,) = find_options(
        SHAPE,
        devices=[DEVICES["H100"]],
        assumed=Assumptions(),
        measured={"H100": measured},
        longest_tokens=10,
    )
    assert one.profile is measured and one.is_measured and one.width == 1


def test_a_model_that_fits_nothing_is_told_with_its_size() -> None:
    with pytest.raises(
        ValueError, match=r"qwen-32b takes 66 GB .* of at most 8 devices of L4"
    ):
        found("L4", longest_tokens=1_000_000)
    with pytest.raises(ValueError, match="width must be >= 1, got 0"):
        option(width=0)

"""What computes together in a step that is padded to 64 or 512 tokens."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.composition import Composition, Part

SIZES = (64, 512, 2048)


def choose(decodes: int, prefill: int, *, urgent: int = 0, prompts: int = 1) -> str:
    return (
        Composition(SIZES)
        .choose(decodes=decodes, prefill=prefill, urgent=urgent, prompts=prompts)
        .name
    )


@pytest.mark.parametrize(
    ("decodes", "prefill", "part"),
    [
        (63, 1, "ALL"),  # a prompt of one token is as good as a decode
        (50, 14, "ALL"),  # 64 together
        (63, 13, "PREFILL"),  # 512 together; 64 + 63 and what a step costs
        (63, 64, "PREFILL"),
        (63, 65, "ALL"),  # 512 anyway
        (63, 449, "ALL"),
        (63, 450, "PREFILL"),  # 2048 together; 512 + 63 and what a step costs
        (0, 13, "ALL"),
        (63, 0, "ALL"),
        (200, 40, "ALL"),  # 512 together; 64 + 200 + 256 is more
        (191, 40, "PREFILL"),
        (192, 40, "ALL"),  # as much: no reason
        (1000, 2000, "ALL"),  # more than any size
    ],
)
def test_prefill_computes_alone_where_the_steps_are_smaller_together(
    decodes: int, prefill: int, part: str
) -> None:
    assert choose(decodes, prefill) == part


def test_prompts_of_one_token_each_are_no_step_with_prefill() -> None:
    assert choose(60, 10, prompts=10) == "ALL"
    assert choose(60, 10, prompts=9) == "PREFILL"


def test_first_tokens_that_are_owed_compute_alone_if_they_are_short() -> None:
    assert choose(10, 1, urgent=1) == "URGENT"
    assert choose(10, 400, urgent=64) == "URGENT"
    assert choose(10, 400, urgent=65) == "ALL"
    assert choose(0, 5, urgent=5) == "ALL"  # nobody else is there


def test_without_sizes_everything_computes_together() -> None:
    assert Composition(()).choose(decodes=63, prefill=13, urgent=13) is Part.ALL


def test_decodes_and_prefill_take_turns() -> None:
    composition = Composition(SIZES)
    said = [composition.choose(decodes=63, prefill=13).name for _ in range(4)]
    assert said == ["PREFILL", "DECODES", "PREFILL", "DECODES"]
    composition = Composition(SIZES)
    said = [composition.choose(decodes=63, prefill=1, urgent=1).name for _ in range(4)]
    assert said == ["URGENT", "ALL", "URGENT", "ALL"]
    said = [composition.choose(decodes=63, prefill=9, urgent=9).name for _ in range(4)]
    assert said == ["URGENT", "DECODES", "URGENT", "DECODES"]


def test_after_a_first_token_that_was_owed_more_are_expected_for_200_steps() -> None:
    composition = Composition(SIZES)
    assert not composition.is_urgent
    composition.choose(decodes=8, prefill=1, urgent=1)
    for _ in range(199):
        composition.choose(decodes=8, prefill=0)
        assert composition.is_urgent
    composition.choose(decodes=8, prefill=0)
    assert not composition.is_urgent


STEPS = st.lists(
    st.tuples(st.integers(0, 600), st.integers(0, 600), st.integers(0, 80)), max_size=30
)


@given(STEPS)
def test_neither_decodes_nor_prefill_stand_back_twice_in_a_row(
    steps: list[tuple[int, int, int]],
) -> None:
    composition = Composition(SIZES)
    latest: deque[Part] = deque(maxlen=2)
    without_decodes = {Part.PREFILL, Part.URGENT}
    for decodes, prefill, urgent in steps:
        latest.append(
            composition.choose(
                decodes=decodes, prefill=prefill, urgent=min(urgent, prefill)
            )
        )
        assert latest.count(Part.DECODES) < 2
        assert sum(part in without_decodes for part in latest) < 2
        if not decodes or not prefill:
            assert latest[-1] is Part.ALL

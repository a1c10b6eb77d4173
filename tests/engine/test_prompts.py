"""What is said with a first token, by a clock that a test can read."""

import numpy as np
import pytest

from mell_jax.engine.frames import Handle
from mell_jax.engine.prompts import PromptTable
from mell_jax.scheduler.ids import Serial, SlotId
from mell_jax.scheduler.plan import Admitted

ONE = Serial(1)


class Clock:
    def __init__(self) -> None:
        self.now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


def admitted(*, cached: int = 0) -> Admitted:
    return Admitted(
        serial=ONE, slot=SlotId(0), tokens=np.ones(4, np.int32), prompt=4, cached=cached
    )


def test_prefill_is_timed_from_the_first_step() -> None:
    clock = Clock()
    table = PromptTable(clock=clock)
    table.expect(ONE, num_top=None)
    clock.now_s += 3.0  # in the queue
    table.admit(admitted())
    clock.now_s += 0.5
    assert table.finish(ONE, handle=Handle(7)).prefill_s == 0.5


def test_a_preempted_prompt_keeps_its_first_step() -> None:
    clock = Clock()
    table = PromptTable(clock=clock)
    table.expect(ONE, num_top=None)
    table.admit(admitted())
    clock.now_s += 2.0
    table.admit(admitted(cached=2))
    clock.now_s += 1.0
    done = table.finish(ONE, handle=Handle(7))
    assert (done.prefill_s, done.cached_tokens) == (3.0, 2)


def test_a_prompt_that_began_elsewhere_has_no_time() -> None:
    table = PromptTable(clock=Clock())
    table.adopt(ONE, num_top=None)
    assert table.finish(ONE, handle=Handle(7)).prefill_s is None


@pytest.mark.parametrize("num_top", [0, 1, 20])
@pytest.mark.parametrize("is_adopted", [False, True])
def test_nothing_to_tell_is_not_the_same_as_not_asked(
    num_top: int, is_adopted: bool
) -> None:
    table = PromptTable(clock=Clock())
    for wanted in (num_top, None):
        if is_adopted:
            table.adopt(ONE, num_top=wanted)
        else:
            table.expect(ONE, num_top=wanted)
            table.admit(
                Admitted(
                    serial=ONE,
                    slot=SlotId(0),
                    tokens=np.ones(1, np.int32),
                    prompt=1,
                    cached=0,
                )
            )
        logprobs = table.finish(ONE, handle=Handle(7)).logprobs
        if wanted is None:
            assert logprobs is None
        else:
            assert logprobs is not None
            assert logprobs.chosen.shape == (0,)
            assert logprobs.top_ids.shape == logprobs.top.shape == (0, num_top)

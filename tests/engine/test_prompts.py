"""What is said with a first token, by a clock that a test can read."""

import numpy as np

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
    table.expect(ONE)
    clock.now_s += 3.0  # in the queue
    table.admit(admitted())
    clock.now_s += 0.5
    assert table.finish(ONE, handle=Handle(7)).prefill_s == 0.5


def test_a_preempted_prompt_keeps_its_first_step() -> None:
    clock = Clock()
    table = PromptTable(clock=clock)
    table.expect(ONE)
    table.admit(admitted())
    clock.now_s += 2.0
    table.admit(admitted(cached=2))
    clock.now_s += 1.0
    done = table.finish(ONE, handle=Handle(7))
    assert (done.prefill_s, done.cached_tokens) == (3.0, 2)


def test_a_prompt_that_began_elsewhere_has_no_time() -> None:
    table = PromptTable(clock=Clock())
    table.adopt(ONE, length=4)
    assert table.finish(ONE, handle=Handle(7)).prefill_s is None

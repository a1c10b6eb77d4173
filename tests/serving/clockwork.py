"""An engine whose time is counted in steps, for what would take minutes.

An `EngineThread` drives it, and times each step; the fake engine is a thread itself and
knows no time.

Every step is 20 ms of its clock and takes as long as it takes. A sequence counts up
from its prompt's last token, through 1 to 30 and round again:

    3 -> 4 5 6 ... 30 1 2 3 ...        letters: c -> defghij...
"""

import threading
import time
from dataclasses import replace
from typing import final

import numpy as np

from mell_jax.engine.admin import Answer, Command
from mell_jax.engine.frames import (
    Abort,
    EngineInfo,
    EngineLoad,
    Finished,
    FinishReason,
    Handle,
    StepFrame,
    Submit,
)
from mell_jax.scheduler.placement.operator import NotPossibleError
from tests.serving.fake_engine import INFO

STEP_S = 0.02
TOKENS = 30


def count_up(first: int, *, count: int) -> list[int]:
    """The answer to a prompt that ends with `first`."""
    return [(first + n) % TOKENS + 1 for n in range(count)]


LEAST_S = 0.0004
"""Of the real time, for a step: front ends need some of it, too."""


@final
class Clockwork:
    """What an `EngineThread` drives."""

    idle_wait_s = None
    infos: tuple[EngineInfo, ...] = (replace(INFO, max_model_len=10**7),)

    def __init__(self) -> None:
        self.may_step = threading.Event()
        self.submitted = threading.Semaphore(0)
        self.laps_s: list[float] = []  # from step to step, all that is between
        self.ends: dict[FinishReason, int] = {}
        self.live: dict[Handle, tuple[int, int]] = {}  # last token, tokens left
        self._finished: list[Finished] = []
        self._begun_s: float | None = None

    def close(self) -> None: ...

    @property
    def now_s(self) -> float:
        """Of its clock."""
        return STEP_S * len(self.laps_s)

    @property
    def has_work(self) -> bool:
        return bool(self.live or self._finished)

    @property
    def is_resting(self) -> bool:
        return not self.has_work

    def probe(self) -> None: ...

    def submit(self, submit: Submit) -> None:
        assert submit.params.max_tokens is not None
        self.live[submit.handle] = int(submit.prompt[-1]), submit.params.max_tokens
        self.submitted.release()

    def abort(self, abort: Abort) -> None:
        for handle in abort.handles:
            if self.live.pop(handle, None) is not None:
                self._end(handle, FinishReason.ABORT)

    def nudge(self) -> None: ...

    def administer(self, command: Command) -> Answer:
        raise NotPossibleError("there is nothing to administer")

    def step(self) -> StepFrame | None:
        if not self.may_step.is_set():
            self._begun_s = None
            time.sleep(0.001)  # messages are taken between steps
            return None
        time.sleep(LEAST_S)
        now_s = time.perf_counter()
        if self._begun_s is not None:
            self.laps_s.append(now_s - self._begun_s)
        self._begun_s = now_s
        handles = np.asarray(list(self.live), np.int64)
        tokens = []
        for handle, (last, left) in list(self.live.items()):
            tokens.append(last % TOKENS + 1)
            self.live[handle] = tokens[-1], left - 1
            if left == 1:
                del self.live[handle]
                self._end(handle, FinishReason.LENGTH)
        finished, self._finished = tuple(self._finished), []
        if not self.live:
            self._begun_s = None  # it waits for work
        return StepFrame(
            handles=handles, tokens=np.asarray(tokens, np.int32), finished=finished
        )

    def load(self, *, compilations: int = 0) -> EngineLoad:
        return EngineLoad(
            running=len(self.live),
            waiting=0,
            waiting_tokens=0,
            used_pages=len(self.live),
            cached_pages=0,
            free_pages=0,
            generated_tokens=0,
            prefix_hit_tokens=0,
            prefix_query_tokens=0,
            preemptions=0,
            steps=len(self.laps_s),
            compilations=compilations,
        )

    def _end(self, handle: Handle, reason: FinishReason) -> None:
        self.ends[reason] = self.ends.get(reason, 0) + 1
        self._finished.append(Finished(handle=handle, reason=reason))

"""A server whose engine does nothing but keep time, for measuring what is before it.

    python -m benchmarks.service.metronome STEP_MS FRONTENDS STREAMS [MOST]

Every step does the same work whatever is asked for, and gives each sequence one token:
the microseconds of the monotonic clock, modulo `CLOCK_US`, at which the step ended. So
a client on the same machine can tell how late a token is. Until there are STREAMS
sequences each gets only its first token, so that they begin together; they end when
they are aborted. More than MOST sequences are refused. The first line of output is the
address, the last what steps took, as JSON.
"""

import json
import sys
import time
from typing import final

import numpy as np

from benchmarks.service.measured import serve
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
from mell_jax.engine.thread import EngineThread
from mell_jax.scheduler.placement.operator import NotPossibleError
from mell_jax.worker.compilation import CompilationCounter

CLOCK_US = 2**30
WORK_CALLS = 40  # each gives the interpreter up, as a dispatch does
WORK_SIZE = 96
_INFO = EngineInfo(
    model_name="metronome",
    model_type="llama",
    architecture="LlamaForCausalLM",
    vocab_size=CLOCK_US,
    eos_token_ids=(),
    bos_token_id=None,
    max_model_len=2**30,
    max_rows=2**16,
    num_pages=1,
    page_tokens=16,
)


@final
class Metronome:
    """An `EngineThread` drives it. Times are of one step and what the thread does
    around it, less the waiting."""

    infos: tuple[EngineInfo, ...] = (_INFO,)
    idle_wait_s = None

    def __init__(self, *, step_s: float, streams: int) -> None:
        self._step_s = step_s
        self._streams = streams
        self._is_complete = False
        self._live: dict[Handle, None] = {}
        self._handles = np.zeros(0, np.int64)
        self._ended: list[Handle] = []
        self._steps = self._rows = 0
        self._due_s = self._begun_s = self._begun_cpu_s = 0.0
        self._matrix = np.eye(WORK_SIZE, dtype=np.float32)
        self.times: list[tuple[int, float, float]] = []  # rows, seconds, CPU seconds

    @property
    def has_work(self) -> bool:
        is_due = self._is_complete or len(self._handles) > 0
        return bool(self._ended or (self._live and is_due))

    @property
    def is_resting(self) -> bool:
        return not self.has_work

    def submit(self, submit: Submit) -> None:
        self._live[submit.handle] = None
        self._is_complete = self._is_complete or len(self._live) >= self._streams
        self._handles = (
            np.array(list(self._live), np.int64)
            if self._is_complete
            else np.append(self._handles, submit.handle)
        )

    def abort(self, abort: Abort) -> None:
        for handle in abort.handles:
            if handle in self._live:
                del self._live[handle]
                self._ended.append(handle)
        self._handles = self._handles[np.isin(self._handles, list(self._live))]

    def administer(self, command: Command) -> Answer:
        raise NotPossibleError("a metronome has nothing to administer")

    def step(self) -> StepFrame:
        self._note_time()
        now_s = time.monotonic()
        if now_s < self._due_s:
            time.sleep(self._due_s - now_s)
        self._due_s = max(self._due_s, now_s) + self._step_s
        self._begun_s, self._begun_cpu_s = time.perf_counter(), time.thread_time()
        for _ in range(WORK_CALLS):
            self._matrix @ self._matrix
        self._steps += 1
        ended, self._ended = self._ended, []
        now_us = int(1e6 * time.monotonic()) % CLOCK_US
        handles = self._handles
        if not self._is_complete:
            self._handles = handles[:0]
        self._rows = len(handles)
        return StepFrame(
            handles=handles,
            tokens=np.full(len(handles), now_us, np.int32),
            finished=tuple(
                Finished(handle=handle, reason=FinishReason.ABORT) for handle in ended
            ),
        )

    def nudge(self) -> None:
        """Has no step that waits for messages."""

    def probe(self) -> None:
        """There is no device."""

    def load(self, *, compilations: int = 0) -> EngineLoad:
        return EngineLoad(
            running=len(self._live),
            waiting=0,
            waiting_tokens=0,
            used_pages=0,
            cached_pages=0,
            free_pages=0,
            generated_tokens=0,
            prefix_hit_tokens=0,
            prefix_query_tokens=0,
            preemptions=0,
            steps=self._steps,
            compilations=compilations,
        )

    def close(self) -> None:
        """There is nothing to wait for."""

    def _note_time(self) -> None:
        """Notes that of the step before, now that the thread is through with it."""
        if self._begun_s:
            self.times.append(
                (
                    self._rows,
                    time.perf_counter() - self._begun_s,
                    time.thread_time() - self._begun_cpu_s,
                )
            )


def main(step_ms: float, frontends: int, streams: int, most: int | None) -> int:
    """Serves until SIGTERM."""
    metronome = Metronome(step_s=1e-3 * step_ms, streams=streams)
    engine = EngineThread(metronome, compilations=CompilationCounter())
    cause = serve(engine, names=["metronome"], frontends=frontends, most=most)
    print(json.dumps(metronome.times))
    return 1 if cause else 0


if __name__ == "__main__":
    sys.exit(
        main(
            float(sys.argv[1]),
            int(sys.argv[2]),
            int(sys.argv[3]),
            int(sys.argv[4]) if len(sys.argv) > 4 else None,
        )
    )

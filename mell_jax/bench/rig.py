"""An engine on the bench: stepped by hand, and its compiled step without an engine.

The engine is the one that `build_engine` makes, so that what is measured is what is
served; this module alone reaches behind its thread.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from mell_jax.bench.workload import Int32Array
from mell_jax.engine.build import BuiltEngine
from mell_jax.engine.core import Engine
from mell_jax.engine.frames import Abort, FinishReason, Handle, StepFrame, Submit
from mell_jax.engine.params import SamplingParams
from mell_jax.worker.device import DeviceWorker, Pending
from mell_jax.worker.layout import Bucket, new_vector
from mell_jax.worker.sampling import POSITION_COLUMN, greedy_rows, pack_rows

NEWEST_TOKEN = -1  # its row's newest token, still on the device


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A step's results, as they came."""

    time_s: float
    handles: tuple[int, ...]
    tokens: tuple[int, ...]


@final
class Rig:
    """One engine and what is inside it."""

    def __init__(self, built: BuiltEngine) -> None:
        self.engine: Engine = built.thread._engine
        self.worker: DeviceWorker = self.engine._worker
        self._handles = itertools.count(1)
        self.page_tokens = built.thread.info.page_tokens

    def now_s(self) -> float:
        """The clock of frames."""
        return time.perf_counter()

    def submit(self, prompts: Sequence[Int32Array], *, new_tokens: int) -> list[int]:
        """Leaves greedy requests that ignore the end of sequence; their handles."""
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        handles = []
        for prompt in prompts:
            handle = Handle(next(self._handles))
            self.engine.submit(Submit(handle=handle, prompt=prompt, params=params))
            handles.append(int(handle))
        return handles

    def run(self) -> Iterator[Frame]:
        """Steps until nothing is left to do.

        Raises:
          RuntimeError: a request was refused or failed.
        """
        while self.engine.has_work:
            if (frame := self.engine.step()) is not None:
                for end in frame.finished:
                    if end.reason is FinishReason.ERROR:
                        raise RuntimeError(
                            f"the engine failed a request: {end.message}"
                        )
                yield _frame(frame)

    def clear(self) -> None:
        """Gives up everything that is open."""
        self.engine.abort(Abort(handles=tuple(self.engine._serials)))
        for _ in self.run():
            pass

    def time_bare_steps(self, count: int, *, rows: int, length: int) -> list[float]:
        """Seconds between the results of `count` steps of the compiled decode alone.

        Every row is at `length` tokens. As in the engine a step is launched before the
        tokens of the one before it are fetched. The engine must be idle; its pages are
        scribbled over.

        Raises:
          ValueError: the pool does not hold so many tokens.
        """
        assert not self.engine.has_work, "the engine is busy"
        needed = rows * -(-length // self.page_tokens) + 1
        if not (needed <= self.engine.info.num_pages):
            raise ValueError(
                f"{rows} rows of {length} tokens need {needed} pages and the pool has "
                f"{self.engine.info.num_pages}: take smaller batches or shorter prompts"
            )
        bucket = self.worker.choose_bucket(tokens=rows, rows=rows, is_decode=True)
        vector = bare_vector(
            bucket, rows=rows, length=length, page_tokens=self.page_tokens
        )
        before = self._launch(vector, bucket)
        times = [time.perf_counter()]
        for _ in range(count):
            pending = self._launch(vector, bucket)
            before.tokens()
            times.append(time.perf_counter())
            before = pending
        before.tokens()
        return [after - earlier for earlier, after in itertools.pairwise(times)]

    def _launch(self, vector: Int32Array, bucket: Bucket) -> Pending:
        return self.worker.dispatch(vector, bucket=bucket)


def bare_vector(
    bucket: Bucket, *, rows: int, length: int, page_tokens: int
) -> Int32Array:
    """A decode step of `rows` greedy rows at `length` tokens, each on its own pages."""
    pages = -(-length // page_tokens)
    assert rows <= bucket.rows and pages <= bucket.pages, (rows, pages, str(bucket))
    vector, inputs = new_vector(bucket)
    inputs.token_ids[:] = NEWEST_TOKEN
    inputs.positions[:rows] = length - 1
    inputs.owners[:] = bucket.rows
    inputs.owners[:rows] = np.arange(rows)
    inputs.slots[:] = np.arange(bucket.rows)
    inputs.sources[:] = np.arange(bucket.rows)
    inputs.kv_lens[:rows] = length
    inputs.cu_q_lens[:] = np.minimum(np.arange(bucket.rows + 1), rows)
    inputs.last[:] = np.arange(bucket.rows)
    inputs.sampling[:] = pack_rows(greedy_rows(bucket.rows))
    inputs.sampling[POSITION_COLUMN, :rows] = length
    first = 1 + pages * np.arange(rows, dtype=np.int32)  # page 0 is scratch
    inputs.page_table[:rows, :pages] = first[:, None] + np.arange(pages, dtype=np.int32)
    return vector


def _frame(frame: StepFrame) -> Frame:
    return Frame(
        time_s=time.perf_counter(),
        handles=tuple(frame.handles.tolist()),
        tokens=tuple(frame.tokens.tolist()),
    )

"""Steps an engine by hand, and replays its steps without an engine.

The engine is the fleet of one that `build_engine` makes, so that what is measured is
what is served.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from benchmarks.engine.timers import replaced
from mell_jax.bench.workload import Int32Array
from mell_jax.engine.build import BuiltEngine
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.instance_pool import DeviceInstancePool
from mell_jax.engine.frames import Abort, FinishReason, Handle, StepFrame, Submit
from mell_jax.engine.instance import Instance
from mell_jax.engine.params import SamplingParams
from mell_jax.worker.device import Pending, StepCall

GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame has a step's results, as they came."""

    time_s: float
    handles: tuple[int, ...]
    tokens: tuple[int, ...]


@final
class EngineHarness:
    """A harness holds one engine of one instance, and what is inside it."""

    def __init__(self, built: BuiltEngine) -> None:
        self.engine: Fleet = built.engine
        instance_pool = self.engine.instance_pool
        assert isinstance(instance_pool, DeviceInstancePool), "not from build_engine"
        ((self._device, _), self.worker), *others = instance_pool.workers.items()
        assert not others, "the harness is for one instance"
        self._handles = itertools.count(1)

    @property
    def instance(self) -> Instance:
        """Returns the instance; it opens with the first request and stays open."""
        return self.engine.instances[self._device].inner

    def now_s(self) -> float:
        """Returns the time on the clock of frames."""
        return time.perf_counter()

    def submit(
        self,
        prompts: Sequence[Int32Array],
        *,
        new_tokens: int,
        params: SamplingParams = GREEDY,
    ) -> list[int]:
        """Leaves requests that get so many tokens at most; gives their handles.

        By default they are greedy and go on past an end token.
        """
        params = dataclasses.replace(params, max_tokens=new_tokens)
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
        self.engine.abort(Abort(handles=tuple(self.engine.conductor.requests)))
        for _ in self.run():
            pass

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[StepCall]]:
        """Notes what the engine sends to its compiled decode steps within the block."""
        sent: list[StepCall] = []
        dispatch = self.worker.dispatch

        def note(call: StepCall) -> Pending:
            if call.bucket.is_decode:
                sent.append(call)
            return dispatch(call)

        with replaced(self.worker, "dispatch", note):
            yield sent

    def replay(self, sent: Sequence[StepCall]) -> list[float]:
        """Sends recorded steps again, and nothing else: seconds between their results.

        The device does the same work on the same pages and lengths as it did for the
        engine. As in the engine a step is launched before the tokens of the one before
        it are fetched. The engine must be idle; its pages are scribbled over.

        Returns:
          One time less than there are steps: the first only starts the clock.
        """
        assert not self.engine.has_work, "the engine is busy"
        first, *others = sent
        times_s = []
        before = self._launch(first)
        for step in others:
            pending = self._launch(step)
            before.tokens()
            times_s.append(time.perf_counter())
            before = pending
        before.tokens()
        times_s.append(time.perf_counter())
        return [after - earlier for earlier, after in itertools.pairwise(times_s)]

    def _launch(self, step: StepCall) -> Pending:
        return self.worker.dispatch(step)


def _frame(frame: StepFrame) -> Frame:
    return Frame(
        time_s=time.perf_counter(),
        handles=tuple(frame.handles.tolist()),
        tokens=tuple(frame.tokens.tolist()),
    )

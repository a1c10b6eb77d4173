"""Keeps every instance of a fleet equally busy, so that its steps can be watched.

rows x context     so many requests on each instance, with prompts of that length:
                   their prefill is seen, then steps that decode all of them
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mell_jax.bench.step_watch import StepWatch
from mell_jax.bench.still import Still
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import Abort, FinishReason, Handle, Submit
from mell_jax.engine.params import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """The settings say how long steps are watched.

    Raises:
      ValueError: a value is out of range.
    """

    steps: int = 32  # that decode, at each point
    most_tokens: int = 16384  # of prompts, at each point and instance
    repeats: int = 2  # of all points
    seed: int = 0  # of prompts

    def __post_init__(self) -> None:
        for name in ("steps", "most_tokens", "repeats"):
            value = getattr(self, name)
            if not (value >= 1):
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """Each instance has `rows` requests with prompts of `context` tokens."""

    rows: int
    context: int


def choose_points(
    *, max_rows: int, context: int, steps: int, capacity_tokens: int, most_tokens: int
) -> list[LoadPoint]:
    """Returns few and many requests, with short prompts, longer and the longest ones.

    Args:
      max_rows: of an instance.
      context: tokens of a prompt and its answer.
      steps: that decode at each point; of rows that come first they are some more.
      capacity_tokens: of an instance's pool.
      most_tokens: of all prompts of an instance at a point; it bounds the time.

    Raises:
      ValueError: the context is too short for a prompt and its steps.
    """
    max_tokens = context - 2 * steps
    if not (max_tokens >= 1):
        raise ValueError(
            f"a context of {context} tokens is too short for {steps} steps behind a "
            f"prompt: give max_model_len of at least {2 * steps + 1}"
        )
    points = []
    for rows in sorted({1, max(1, max_rows // 4), max_rows}):
        most = min(max_tokens, capacity_tokens // rows, most_tokens // rows)
        contexts = {min(16, most), most // 4, most}
        points += [
            LoadPoint(rows=rows, context=context)
            for context in sorted(contexts)
            if context >= 1
        ]
    return points


class StepLoad:
    """The load of one fleet, which it steps by itself; handles count from 0.

    Args:
      fleet: with one model, and nothing to do.
      instances: all that it has.
      watch: sees every step.
      seed: prompts are drawn from it.
      clock: seconds, by which steps are timed.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        instances: int,
        watch: StepWatch,
        seed: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._fleet = fleet
        self._instances = instances
        self._watch = watch
        self._clock = clock
        self._rng = np.random.default_rng(seed)
        self._handles = itertools.count()
        self._made: Counter[int] = Counter()
        fleet.conductor.adopt(Still(instances))

    def run(self, point: LoadPoint, *, steps: int) -> None:
        """Serves a point until each request has made `steps` tokens.

        Raises:
          RuntimeError: a request failed.
        """
        info = self._fleet.infos[0]
        params = SamplingParams(
            temperature=0.0,
            max_tokens=info.max_model_len - point.context,
            ignore_eos=True,
        )
        handles = [
            Handle(next(self._handles)) for _ in range(point.rows * self._instances)
        ]
        for handle in handles:
            prompt = self._rng.integers(2, info.vocab_size, point.context, np.int32)
            self._fleet.submit(Submit(handle=handle, prompt=prompt, params=params))
        while any(self._made[handle] < steps for handle in handles):
            self._step()
        self._fleet.abort(Abort(handles=tuple(handles)))
        while self._fleet.has_work:
            self._step()
        self._made.clear()

    def _step(self) -> None:
        frame = self._fleet.step()
        self._watch.look(self._fleet, now_s=self._clock())
        if frame is None:
            return
        self._made.update(frame.handles.tolist())
        for end in frame.finished:
            if end.reason is FinishReason.ERROR:
                raise RuntimeError(f"the engine failed a request: {end.message}")

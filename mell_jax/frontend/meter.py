"""The meter counts what readers of streams see: times, tokens and ends.

    generate -> Meter.begin -> a Watch per sample: see(delta)
    metrics  -> Meter.measured: a frozen copy per model, which can be added up

One event loop writes and reads. A message costs well under a microsecond, a token
nothing of its own; nothing here grows with traffic.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import final

from mell_jax.engine.frames import PromptDone, Submit
from mell_jax.engine.histogram import Histogram, HistogramRecorder
from mell_jax.frontend.delta import Delta

SECOND_BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4),
    *(0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BOUNDS = tuple(
    float(digit * 10**power) for power in range(6) for digit in (1, 2, 5)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFigures:
    """The figures are those of one model; every sample of a request counts by itself.

    Raises:
      ValueError: a histogram has bounds that could not be added to others'.
    """

    prompt_tokens: int  # of accepted requests, once for all samples
    generation_tokens: int
    finished: Mapping[str, int]  # samples, by reason
    first_token_s: Histogram  # from the request to its first token
    queue_s: Histogram  # from the request to its first step; the rest is prefill
    prefill_s: Histogram  # from the first step to the first token
    inter_token_s: Histogram  # tokens that come together share their gap
    request_s: Histogram  # from the request to its end
    decode_s: Histogram  # from the first token to the last
    request_prompt_tokens: Histogram
    request_generation_tokens: Histogram
    request_max_tokens: Histogram  # that a sample was allowed

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            wanted = SECOND_BOUNDS if each.name.endswith("_s") else TOKEN_BOUNDS
            if isinstance(value, Histogram) and not (value.bounds == wanted):
                raise ValueError(f"{each.name} has bounds of its own: {value.bounds}")

    def __add__(self, other: "ModelFigures") -> "ModelFigures":
        sums = {
            each.name: getattr(self, each.name) + getattr(other, each.name)
            for each in fields(ModelFigures)
            if each.name != "finished"
        }
        finished = Counter(self.finished) + Counter(other.finished)
        return ModelFigures(finished=dict(finished), **sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutcome:
    """The outcome says what a request came to, all its samples together."""

    prompt_tokens: int
    generation_tokens: int
    first_token_s: float | None  # from the request to its first token; None of none
    reasons: tuple[str, ...]  # for the end of each sample


@final
class ModelMeter:
    """A model's meter counts what `ModelFigures` shows."""

    def __init__(self) -> None:
        self.prompt_tokens = self.generation_tokens = 0
        self.finished: Counter[str] = Counter()
        self.first_token_s = HistogramRecorder(SECOND_BOUNDS)
        self.queue_s = HistogramRecorder(SECOND_BOUNDS)
        self.prefill_s = HistogramRecorder(SECOND_BOUNDS)
        self.inter_token_s = HistogramRecorder(SECOND_BOUNDS)
        self.request_s = HistogramRecorder(SECOND_BOUNDS)
        self.decode_s = HistogramRecorder(SECOND_BOUNDS)
        self.request_prompt_tokens = HistogramRecorder(TOKEN_BOUNDS)
        self.request_generation_tokens = HistogramRecorder(TOKEN_BOUNDS)
        self.request_max_tokens = HistogramRecorder(TOKEN_BOUNDS)

    def frozen(self) -> ModelFigures:
        return ModelFigures(
            prompt_tokens=self.prompt_tokens,
            generation_tokens=self.generation_tokens,
            finished=dict(self.finished),
            first_token_s=self.first_token_s.frozen(),
            queue_s=self.queue_s.frozen(),
            prefill_s=self.prefill_s.frozen(),
            inter_token_s=self.inter_token_s.frozen(),
            request_s=self.request_s.frozen(),
            decode_s=self.decode_s.frozen(),
            request_prompt_tokens=self.request_prompt_tokens.frozen(),
            request_generation_tokens=self.request_generation_tokens.frozen(),
            request_max_tokens=self.request_max_tokens.frozen(),
        )


@final
class Watch:
    """A watch follows one sample, from the request on."""

    __slots__ = (
        "_clock",
        "_first_s",
        "_last_s",
        "_max_tokens",
        "_meter",
        "_start_s",
        "prompt_tokens",
        "reason",
        "tokens",
    )

    def __init__(
        self,
        meter: ModelMeter,
        *,
        clock: Callable[[], float],
        start_s: float,
        prompt_tokens: int,
        max_tokens: int,
    ) -> None:
        self._meter = meter
        self._clock = clock
        self._start_s = self._first_s = self._last_s = start_s
        self._max_tokens = max_tokens
        self.prompt_tokens = prompt_tokens
        self.tokens = 0  # that it has got
        self.reason = ""  # for its end; empty before

    @property
    def first_token_s(self) -> float | None:
        """Returns the time from the request to its first token, if it has one."""
        return self._first_s - self._start_s if self.tokens else None

    def see(self, delta: Delta, *, prompt: PromptDone | None = None) -> None:
        """Counts what has come for the sample, perhaps its end.

        Args:
          delta: what the reader gets.
          prompt: what the engine says of the prompt, with the first token.
        """
        count = len(delta.token_ids)
        if count:
            self._see_tokens(count)
        if self.tokens and prompt is not None and prompt.prefill_s is not None:
            first_s = self._first_s - self._start_s
            self._meter.prefill_s.add(prompt.prefill_s)
            self._meter.queue_s.add(max(0.0, first_s - prompt.prefill_s))
        if delta.finish is not None:
            self.end(delta.finish.reason)

    def _see_tokens(self, count: int) -> None:
        now_s, meter = self._clock(), self._meter
        gaps = count
        if not self.tokens:
            gaps -= 1
            self._first_s = self._last_s = now_s
            meter.first_token_s.add(now_s - self._start_s)
        if gaps:
            meter.inter_token_s.add((now_s - self._last_s) / gaps, count=gaps)
            self._last_s = now_s
        self.tokens += count
        meter.generation_tokens += count

    def end(self, reason: str) -> None:
        """Ends the watch; only the first reason counts."""
        if self.reason:
            return
        self.reason = reason
        meter = self._meter
        meter.finished[reason] += 1
        meter.request_s.add(self._clock() - self._start_s)
        meter.request_prompt_tokens.add(self.prompt_tokens)
        meter.request_generation_tokens.add(self.tokens)
        meter.request_max_tokens.add(self._max_tokens)
        if self.tokens:
            meter.decode_s.add(self._last_s - self._first_s)


@final
class Watches:
    """Watches follow a request's samples; use them with `with`.

    A sample that is not over on leaving was given up by its reader, or has failed.
    """

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watches = watches

    def __enter__(self) -> Sequence[Watch]:
        return self._watches

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: object
    ) -> None:
        is_error = kind is not None and issubclass(kind, Exception)
        for watch in self._watches:
            watch.end("error" if is_error else "abort")

    @property
    def outcome(self) -> RequestOutcome:
        """Returns the outcome as of now."""
        firsts = [watch.first_token_s for watch in self._watches]
        return RequestOutcome(
            prompt_tokens=self._watches[0].prompt_tokens,
            generation_tokens=sum(watch.tokens for watch in self._watches),
            first_token_s=min((s for s in firsts if s is not None), default=None),
            reasons=tuple(watch.reason for watch in self._watches),
        )


@final
class Meter:
    """The meter counts for all models of a front end.

    Args:
      models: their names; the only ones that are ever shown.
      clock: seconds, never backwards.
    """

    def __init__(
        self, models: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._models = {name: ModelMeter() for name in models}
        self._refused: Counter[str] = Counter()

    @property
    def now_s(self) -> float:
        return self._clock()

    def begin(
        self, samples: Sequence[Submit], *, model: str, start_s: float
    ) -> Watches:
        """Counts a request that was accepted and came at `start_s`.

        Raises:
          KeyError: no such model.
        """
        meter = self._models[model]
        meter.prompt_tokens += samples[0].prompt.size
        return Watches(
            [
                Watch(
                    meter,
                    clock=self._clock,
                    start_s=start_s,
                    prompt_tokens=sample.prompt.size,
                    max_tokens=sample.params.max_tokens or 0,
                )
                for sample in samples
            ]
        )

    def refuse(self, reason: str) -> None:
        """Counts a request that was turned away; `reason` is one of few words."""
        self._refused[reason] += 1

    @property
    def refused(self) -> Mapping[str, int]:
        """Returns a copy of the requests turned away, by reason."""
        return dict(self._refused)

    def measured(self) -> dict[str, ModelFigures]:
        """Returns the figures by model; they do not change afterwards."""
        return {name: meter.frozen() for name, meter in self._models.items()}
